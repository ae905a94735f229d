/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes that all want the CPU, from the same moment on: how long each did not run.
 *
 *   many N SECONDS
 *
 * Prints one JSON object: each process's longest gap between two moments in which it ran.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "bench.h"

/* A gap is counted from here on: what interrupts take is none. */
#define LEAST_GAP_NS 2000000L
#define READY_S 3

static long *begin_ns;

static void spin(long until_ns, long *longest_ns)
{
	long last_ns = *begin_ns, now;

	do {
		now = now_ns();
		if (now - last_ns > LEAST_GAP_NS && now - last_ns > *longest_ns)
			*longest_ns = now - last_ns;
		last_ns = now;
	} while (now < until_ns);
}

static void start(long seconds, int gate[2], long *longest_ns)
{
	char byte;

	if (forked() != 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close(gate[1]);
	if (read(gate[0], &byte, 1) != 0)
		_exit(1);
	spin(*begin_ns + seconds * NS_PER_S, longest_ns);
	_exit(0);
}

int main(int argc, char **argv)
{
	long count = argc == 3 ? number(argv[1], 1) : -1;
	long seconds = argc == 3 ? number(argv[2], 1) : -1;
	long *longest_ns;
	int gate[2], status;

	if (count < 0 || seconds < 0) {
		fprintf(stderr, "usage: many N SECONDS\n");
		return 2;
	}
	begin_ns = mmap(NULL, (count + 1) * sizeof(long), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (begin_ns == MAP_FAILED)
		die("share memory");
	longest_ns = begin_ns + 1;
	if (pipe(gate) < 0)
		die("make a pipe");
	for (long i = 0; i < count; i++)
		start(seconds, gate, &longest_ns[i]);
	sleep(READY_S);
	*begin_ns = now_ns();
	close(gate[1]);
	while (wait(&status) > 0)
		if (status)
			return 1;
	printf("{\"longest_ns\": [");
	for (long i = 0; i < count; i++)
		printf("%s%ld", i ? ", " : "", longest_ns[i]);
	printf("]}\n");
	return 0;
}
