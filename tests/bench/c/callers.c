/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An agent that starts one command after another:
 *
 *   callers SECONDS COMMAND...   prints how long each took, in ns
 *   callers                      does nothing: a command for it
 */
#define _GNU_SOURCE
#include "bench.h"

#include <spawn.h>
#include <sys/wait.h>

int main(int argc, char **argv)
{
	long until;

	if (argc == 1)
		return 0;
	if (argc < 3 || number(argv[1], 1) < 0) {
		fprintf(stderr, "usage: callers SECONDS COMMAND...\n");
		return 2;
	}
	until = now_ns() + number(argv[1], 1) * NS_PER_S;
	while (now_ns() < until) {
		long begun = now_ns();
		int status;
		pid_t child;

		errno = posix_spawn(&child, argv[2], NULL, NULL, argv + 2, environ);
		if (errno)
			die("start the command");
		if (waitpid(child, &status, 0) != child)
			die("wait");
		if (status) {
			fprintf(stderr, "callers: the command ended with %#x\n", status);
			return 1;
		}
		printf("%ld\n", now_ns() - begun);
	}
	return 0;
}
