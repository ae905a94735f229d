/* SPDX-License-Identifier: Apache-2.0 */
/* The command's process: made before the daemon is asked, let go when it has its leaf. */
#ifndef AGENTCGROUP_CHILD_H
#define AGENTCGROUP_CHILD_H

#include <signal.h>
#include <sys/signalfd.h>
#include <sys/types.h>

#include "budget.h"
#include "text.h"

struct child {
	pid_t pid; /* 0: not started */
	int pidfd;
	int hold_fd; /* write end: a budget lets it go, closing it ends it; -1 when released */
	int signal_fd;
	bool ended;
	int exit_code; /* -1: ended by the signal below */
	int signal;
	sigset_t mask; /* what this program inherited, for the command */
	bool ignored_sigchld;
};

/* Blocks what is forwarded and opens signal_fd. False with a line on stderr. */
bool child_prepare(struct child *child);

/* Forks the waiting child. False with a line on stderr. */
bool child_start(struct child *child, char **command);

/* Lets it go, with this in its environment. */
void child_release(struct child *child, const struct budget *budget);

/* Ends a child that was not released. */
void child_discard(struct child *child);

/* Takes one signal from signal_fd; 0 if there is none. */
int child_next_signal(struct child *child, struct signalfd_siginfo *info);

/* While the child waits: the status to exit with if this signal ends us, or -1. */
int child_signal_while_held(struct child *child, const struct signalfd_siginfo *info);

/* While the command runs: forwards, reaps (sets `ended`), stops with it. */
void child_signal(struct child *child, const struct signalfd_siginfo *info);

/* The shell's number for how the command ended. */
int child_status(const struct child *child);

/* Becomes the command with what this program inherited; returns only an exit status. */
int child_become(struct child *child, char **command);

/* Becomes the command; on failure a line on stderr and 127 or 126. */
int exec_command(char **command);

/* Becomes an interactive shell; `login`: called with a dash, as login(1) does. */
int exec_shell(char **command, bool login);

/* Waits for one byte on the descriptor, then becomes the command. */
int exec_after_hold(const char *fd_text, char **command);

#endif
