/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agentcgroup-guardian: what stays awake when the daemon does not.
 *
 * The daemon writes a byte to a FIFO again and again: 'h' it lives, 'q' it leaves in
 * good order. When that stops, everything the daemon holds back is let go within the
 * limits that the kernel keeps: frozen leaves thaw, commands that were stopped at their
 * exec go on, grants rise to a share of what is free, and an epoch tells a returning daemon that its picture is old. Repeated each
 * second (or timeout, if that is shorter) until heartbeats are back. All memory is static, locked at the start.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guardian_stopped.h"
#include "guardian_tree.h"
#include "notify.h"

#define EXIT_USAGE 2
#define DEFAULT_TIMEOUT_MS 2000
#define REPEAT_MS 1000

static struct {
	const char *root;
	const char *heartbeat;
	const char *cgroup;
	uint64_t budget_bytes;
	int64_t timeout_ms;
	bool exit_on_quit;
} options = { .timeout_ms = DEFAULT_TIMEOUT_MS };

static int fifo_fd = -1;

static int wrong_usage(const char *argument, const char *problem)
{
	say(argument, ": ", problem,
	    "; usage: agentcgroup-guardian --root CGROUP --heartbeat FIFO [--timeout SECONDS]"
	    " [--budget-bytes N] [--cgroup CGROUP] [--exit-on-quit]",
	    NULL);
	return EXIT_USAGE;
}

static bool set_option(const char *name, const char *value)
{
	if (!strcmp(name, "--root"))
		options.root = value;
	else if (!strcmp(name, "--heartbeat"))
		options.heartbeat = value;
	else if (!strcmp(name, "--cgroup"))
		options.cgroup = value;
	else if (!strcmp(name, "--timeout"))
		return parse_seconds(value, &options.timeout_ms) && options.timeout_ms > 0;
	else if (!strcmp(name, "--budget-bytes"))
		return parse_whole_number(value, &options.budget_bytes);
	else
		return false;
	return *value;
}

static int parse(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--exit-on-quit")) {
			options.exit_on_quit = true;
			continue;
		}
		if (i + 1 == argc)
			return wrong_usage(argv[i], "no such option, or its value is missing");
		if (!set_option(argv[i], argv[i + 1]))
			return wrong_usage(argv[i], "no such option, or a value that can't be used");
		i++;
	}
	if (!options.root)
		return wrong_usage("--root", "missing");
	if (!options.heartbeat)
		return wrong_usage("--heartbeat", "missing");
	return -1;
}

static void write_once(const char *path, const char *value, const char *purpose)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		say("cannot ", purpose, " (", path, "): ", error_text(errno), NULL);
	if (fd >= 0)
		close(fd);
}

static void protect_self(void)
{
	char path[4096];
	struct text text = TEXT_IN(path);

	if (options.cgroup) {
		text.capacity--;
		text_add(&text, options.cgroup);
		text_add(&text, "/cgroup.procs");
		write_once(text_string(&text), "0", "move to the guardian's own cgroup");
	}
	write_once("/proc/self/oom_score_adj", "-1000", "leave the OOM killer's list");
	if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
		say("cannot lock memory: ", error_text(errno), NULL);
}

/*
 * Opens the FIFO, or makes it: daemon and guardian start in any order. Read and write,
 * so that the daemon's end closing is silence and not an end of file.
 */
static int open_fifo(void)
{
	struct stat info;
	int fd;

	if (mkfifo(options.heartbeat, 0600) < 0 && errno != EEXIST)
		return -1;
	fd = open(options.heartbeat, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	if (fd >= 0 && (fstat(fd, &info) < 0 || !S_ISFIFO(info.st_mode))) {
		close(fd);
		errno = EINVAL;
		return -1;
	}
	return fd;
}

/* A daemon that came back may have made its runtime directory, and the FIFO, anew. */
static void follow_fifo(void)
{
	struct stat ours, theirs;
	int fd = open_fifo();

	if (fd < 0) {
		say("cannot open ", options.heartbeat, ": ", error_text(errno), NULL);
		return;
	}
	if (fstat(fifo_fd, &ours) == 0 && fstat(fd, &theirs) == 0 &&
	    ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev) {
		close(fd);
		return;
	}
	close(fifo_fd);
	fifo_fd = fd;
}

/* The last byte that waits in the FIFO, or 0. */
static char read_heartbeats(void)
{
	char bytes[512], last = 0;
	ssize_t n;

	while ((n = read(fifo_fd, bytes, sizeof(bytes))) > 0)
		last = bytes[n - 1];
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		say("cannot read ", options.heartbeat, ": ", error_text(errno), NULL);
	return last;
}

static void add_count(struct text *text, const char *before, uint64_t number)
{
	text_add(text, before);
	text_add_number(text, number);
}

/* Lets go; `first` also writes the epoch and always says so. */
static void take_over(bool first, bool left)
{
	char line[192];
	struct text text = TEXT_IN(line);
	struct relief done = { 0, 0 };
	unsigned int continued;

	tree_relieve(options.root, options.budget_bytes, first, &done);
	continued = stopped_continue(options.root, true);
	if (!first && !done.thawed && !done.raised && !continued)
		return;
	text_add(&text, left ? "the daemon left" : "the daemon is silent");
	add_count(&text, ": leaves thawed ", done.thawed);
	add_count(&text, ", grants raised ", done.raised);
	if (continued)
		add_count(&text, ", stopped commands continued ", continued);
	if (first)
		add_count(&text, ", epoch ", tree_bump_epoch(options.root));
	say(text_string(&text), NULL);
}

/* A daemon that lives may still have lost one. */
static void continue_overdue(void)
{
	unsigned int continued = stopped_continue(options.root, false);
	char line[96];
	struct text text = TEXT_IN(line);

	if (!continued)
		return;
	add_count(&text, "stopped commands continued after their time: ", continued);
	say(text_string(&text), NULL);
}

static int watch(void)
{
	int64_t watchdog_ms = notify_watchdog_ms();
	int64_t repeat_ms = options.timeout_ms < REPEAT_MS ? options.timeout_ms : REPEAT_MS;
	int64_t beat_ms = now_ms(), acted_ms = 0, told_ms = beat_ms;
	bool silent = false, left = false;

	for (;;) {
		struct pollfd fifo = { fifo_fd, POLLIN, 0 };
		int64_t now = now_ms();
		int64_t due = silent ? acted_ms + repeat_ms : beat_ms + options.timeout_ms;
		char byte;

		if (watchdog_ms > 0 && told_ms + watchdog_ms < due)
			due = told_ms + watchdog_ms;
		poll(&fifo, 1, due > now ? (int)(due - now) : 0);
		/* Always before judging: we may have been held up ourselves. */
		byte = read_heartbeats();
		now = now_ms();
		if (watchdog_ms > 0 && now >= told_ms + watchdog_ms) {
			notify_send("WATCHDOG=1");
			told_ms = now;
		}
		if (byte == 'q') {
			take_over(true, true);
			if (options.exit_on_quit)
				return 0;
			silent = left = true;
			acted_ms = now;
		} else if (byte) {
			if (silent)
				say("heartbeats are back", NULL);
			silent = left = false;
			beat_ms = now;
			continue_overdue();
		} else if (silent ? now >= acted_ms + repeat_ms : now >= beat_ms + options.timeout_ms) {
			take_over(!silent, left);
			silent = true;
			acted_ms = now;
			follow_fifo();
		}
	}
}

int main(int argc, char **argv)
{
	int status;

	say_prefix = "agentcgroup-guardian: ";
	status = parse(argc, argv);
	if (status >= 0)
		return status;
	fifo_fd = open_fifo();
	if (fifo_fd < 0) {
		say("--heartbeat: cannot use '", options.heartbeat, "': ", error_text(errno),
		    "; name a FIFO, or a place where one can be made", NULL);
		return EXIT_USAGE;
	}
	notify_open();
	protect_self();
	notify_send("READY=1");
	return watch();
}
