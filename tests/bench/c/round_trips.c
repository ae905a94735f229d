/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a tool call waits for the daemon: connect, tool.begin and its answer, tool.end and
 * its answer. The child's fork and end lie between and are not counted.
 *
 *   round_trips SOCKET N
 *
 * Prints one JSON object: the median of N calls in ns, for both halves and in total.
 */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "bench.h"

static char answer[1 << 16];

static int connected(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		die("connect");
	return fd;
}

static void ask(int fd, const char *line, int passed_fd)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	struct iovec part = { (void *)line, strlen(line) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	size_t used = 0;

	if (passed_fd >= 0) {
		message.msg_control = control.space;
		message.msg_controllen = sizeof(control.space);
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.align), &passed_fd, sizeof(int));
	}
	if (sendmsg(fd, &message, MSG_NOSIGNAL) != (ssize_t)strlen(line))
		die("send");
	do {
		ssize_t n = read(fd, answer + used, sizeof(answer) - 1 - used);

		if (n <= 0)
			die("read the answer");
		used += (size_t)n;
		answer[used] = 0;
	} while (answer[used - 1] != '\n');
	if (!strstr(answer, "\"result\"")) {
		fprintf(stderr, "round_trips: refused: %s", answer);
		exit(1);
	}
}

/* One call. The two times it waited, in ns. */
static void call(const char *path, int number, long times_ns[2])
{
	char line[512], name[64];
	const char *found;
	int fd, pidfd = -1;
	long started;
	pid_t pid = (pid_t)syscall(SYS_clone, (long)(CLONE_PIDFD | SIGCHLD), 0L, &pidfd, 0L, 0L);

	if (pid < 0)
		die("fork");
	if (pid == 0)
		for (;;)
			pause();
	snprintf(line, sizeof(line),
		 "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tool.begin\",\"params\":"
		 "{\"key\":\"round-trip-%d-%d\",\"intent\":{\"command\":\"nothing\"}}}\n",
		 getpid(), number);
	started = now_ns();
	fd = connected(path);
	ask(fd, line, pidfd);
	times_ns[0] = now_ns() - started;
	found = strstr(answer, "\"call\":\"");
	if (!found || sscanf(found + 8, "%63[^\"]", name) != 1)
		die("find the call's name");

	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(pidfd);
	snprintf(line, sizeof(line),
		 "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tool.end\",\"params\":"
		 "{\"call\":\"%s\",\"signal\":9}}\n", name);
	started = now_ns();
	ask(fd, line, -1);
	times_ns[1] = now_ns() - started;
	close(fd);
}

static int ascending(const void *left, const void *right)
{
	long a = *(const long *)left, b = *(const long *)right;

	return (a > b) - (a < b);
}

static long median(long *values, int count)
{
	qsort(values, (size_t)count, sizeof(*values), ascending);
	return values[count / 2];
}

int main(int argc, char **argv)
{
	int count = argc == 3 ? atoi(argv[2]) : 0;
	long *begin, *end, *total;

	if (count <= 0) {
		fprintf(stderr, "usage: round_trips SOCKET N\n");
		return 2;
	}
	begin = calloc((size_t)count, sizeof(*begin));
	end = calloc((size_t)count, sizeof(*end));
	total = calloc((size_t)count, sizeof(*total));
	if (!begin || !end || !total)
		die("get memory");
	for (int i = 0; i < count; i++) {
		long times_ns[2];

		call(argv[1], i, times_ns);
		begin[i] = times_ns[0];
		end[i] = times_ns[1];
		total[i] = times_ns[0] + times_ns[1];
	}
	printf("{\"begin\":{\"p50_ns\":%ld},\"end\":{\"p50_ns\":%ld},\"total\":{\"p50_ns\":%ld}}\n",
	       median(begin, count), median(end, count), median(total, count));
	return 0;
}
