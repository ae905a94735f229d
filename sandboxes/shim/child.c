/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "options.h"

/*
 * Blocked and read from signal_fd instead of handled: no dispositions change, so the
 * command inherits exactly what this program did. SIGPIPE and SIGTTOU only stay
 * blocked: a closed or background terminal must not cost the exit status.
 */
static const int watched[] = {
	SIGCHLD, SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH, SIGTSTP,
};
static const int only_blocked[] = { SIGPIPE, SIGTTOU };

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static bool inherited_ignored(int number)
{
	struct sigaction action;

	return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

bool child_prepare(struct child *child)
{
	struct sigaction standard = { .sa_handler = SIG_DFL };
	sigset_t set, blocked;

	child->pidfd = child->hold_fd = -1;
	sigemptyset(&set);
	for (size_t i = 0; i < COUNT(watched); i++)
		sigaddset(&set, watched[i]);
	child->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (child->signal_fd < 0) {
		say("cannot watch signals: ", error_text(errno), NULL);
		return false;
	}
	blocked = set;
	for (size_t i = 0; i < COUNT(only_blocked); i++)
		sigaddset(&blocked, only_blocked[i]);
	sigprocmask(SIG_BLOCK, &blocked, &child->mask);
	/* With SIGCHLD ignored the kernel would throw the exit status away. */
	child->ignored_sigchld = inherited_ignored(SIGCHLD);
	if (child->ignored_sigchld)
		sigaction(SIGCHLD, &standard, NULL);
	return true;
}

int child_become(struct child *child, char **command)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };

	if (child->ignored_sigchld)
		sigaction(SIGCHLD, &ignore, NULL);
	sigprocmask(SIG_SETMASK, &child->mask, NULL);
	return exec_command(command);
}

/* The child's whole life before exec; it also ends when the shim does. */
__attribute__((noreturn)) static void hold(struct child *child, int fd, char **command)
{
	struct budget budget;
	ssize_t n;

	close(child->hold_fd);
	sigprocmask(SIG_SETMASK, &child->mask, NULL);
	do
		n = read(fd, &budget, sizeof(budget));
	while (n < 0 && errno == EINTR);
	if (n != sizeof(budget))
		_exit(EXIT_SHIM_FAILED);
	{
		char *room[budget_room()];

		budget_apply(&budget, room);
		_exit(child_become(child, command));
	}
}

bool child_start(struct child *child, char **command)
{
	int fds[2];
	long pid;

	if (pipe2(fds, O_CLOEXEC) < 0) {
		say("cannot make a pipe: ", error_text(errno), NULL);
		return false;
	}
	child->hold_fd = fds[1];
	pid = syscall(SYS_clone, (long)(CLONE_PIDFD | SIGCHLD), 0L, &child->pidfd, 0L, 0L);
	if (pid == 0)
		hold(child, fds[0], command);
	if (pid < 0)
		say("cannot start a process: ", error_text(errno), NULL);
	close(fds[0]);
	child->pid = pid > 0 ? (pid_t)pid : 0;
	return pid > 0;
}

void child_release(struct child *child, const struct budget *budget)
{
	/* A child that is gone already shows up as SIGCHLD; SIGPIPE is blocked. */
	while (write(child->hold_fd, budget, sizeof(*budget)) < 0 && errno == EINTR)
		;
	close(child->hold_fd);
	child->hold_fd = -1;
}

void child_discard(struct child *child)
{
	if (child->pid > 0 && !child->ended) {
		kill(child->pid, SIGKILL);
		while (waitpid(child->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	child->ended = true;
}

/* A stop that the terminal or the command asked for: the shell must see us stop too. */
static void stop_along(struct child *child, int number)
{
	/* A bare SIGSTOP is somebody holding one process, not job control. */
	if (child->hold_fd >= 0 || (number != SIGTSTP && number != SIGTTIN && number != SIGTTOU))
		return;
	kill(getpid(), SIGSTOP);
	kill(child->pid, SIGCONT);
}

static void reap(struct child *child)
{
	int status;
	pid_t pid;

	/* Any child: as a container's first process we inherit orphans. */
	while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0) {
		if (pid != child->pid)
			continue;
		if (WIFSTOPPED(status)) {
			stop_along(child, WSTOPSIG(status));
			continue;
		}
		child->ended = true;
		child->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
		child->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	}
}

int child_next_signal(struct child *child, struct signalfd_siginfo *info)
{
	ssize_t n;

	do
		n = read(child->signal_fd, info, sizeof(*info));
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)sizeof(*info) ? (int)info->ssi_signo : 0;
}

int child_signal_while_held(struct child *child, const struct signalfd_siginfo *info)
{
	int number = (int)info->ssi_signo;

	switch (number) {
	case SIGCHLD:
		reap(child);
		return child->ended ? child_status(child) : -1;
	case SIGTSTP:
		if (!inherited_ignored(SIGTSTP))
			kill(getpid(), SIGSTOP);
		return -1;
	case SIGCONT:
		if (child->pid > 0)
			kill(child->pid, SIGCONT);
		return -1;
	case SIGWINCH:
		return -1;
	default:
		return inherited_ignored(number) ? -1 : 128 + number;
	}
}

void child_signal(struct child *child, const struct signalfd_siginfo *info)
{
	int number = (int)info->ssi_signo;

	switch (number) {
	case SIGCHLD:
		reap(child);
		break;
	case SIGINT:
	case SIGQUIT:
	case SIGTSTP:
	case SIGWINCH:
		/* The terminal tells the whole process group; kill(2) told only us. */
		if (info->ssi_code == SI_KERNEL)
			break;
		__attribute__((fallthrough));
	default:
		if (!child->ended)
			kill(child->pid, number);
	}
}

int child_status(const struct child *child)
{
	return child->exit_code >= 0 ? child->exit_code : 128 + child->signal;
}

int exec_after_hold(const char *fd_text, char **command)
{
	size_t size = strlen(fd_text);
	uint64_t fd;
	char byte;
	ssize_t n;

	if (size == 0 || size > 9 || !parse_number(fd_text, size, &fd) ||
	    strchr("0123456789", fd_text[size - 1]) == NULL || fcntl((int)fd, F_GETFD) < 0) {
		say("--hold-fd: cannot use '", fd_text,
		    "': name an open descriptor", NULL);
		return EXIT_USAGE;
	}
	do
		n = read((int)fd, &byte, 1);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		return EXIT_SHIM_FAILED;
	close((int)fd);
	return exec_command(command);
}
