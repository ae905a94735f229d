/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Neighbours that want all of the CPU, until they are killed.
 *
 *   load spin        one process that never sleeps
 *   load forks N     N processes that start children which end at once, one after another
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "bench.h"

__attribute__((noreturn)) static void spin(void)
{
	for (;;)
		__asm__ volatile("");
}

__attribute__((noreturn)) static void fork_for_ever(void)
{
	for (;;) {
		pid_t pid = forked();

		if (pid == 0)
			_exit(0);
		if (waitpid(pid, NULL, 0) < 0)
			die("wait");
	}
}

int main(int argc, char **argv)
{
	long parents;

	if (argc == 2 && !strcmp(argv[1], "spin"))
		spin();
	parents = argc == 3 && !strcmp(argv[1], "forks") ? number(argv[2], 1) : -1;
	if (parents < 0) {
		fprintf(stderr, "usage: load spin | forks N\n");
		return 2;
	}
	for (long i = 1; i < parents; i++)
		if (forked() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			fork_for_ever();
		}
	fork_for_ever();
}
