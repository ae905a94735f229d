/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Context switches: pairs of processes that hand one byte to and fro through two pipes.
 *
 *   ping_pong PAIRS SECONDS
 *
 * Prints one JSON object: round trips of all pairs, and in how many ns.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "bench.h"

#define MAX_PAIRS 256
#define WARM_UP_S 1

/* A cache line each: pairs share nothing but the CPU. */
struct count {
	volatile long trips;
	char alone[64 - sizeof(long)];
};

static struct count *counts;

__attribute__((noreturn)) static void answer(int from, int to)
{
	char byte;

	while (read(from, &byte, 1) == 1 && write(to, &byte, 1) == 1)
		;
	_exit(0);
}

__attribute__((noreturn)) static void ask(int to, int from, struct count *count)
{
	char byte = 0;

	while (write(to, &byte, 1) == 1 && read(from, &byte, 1) == 1)
		count->trips++;
	_exit(1);
}

static pid_t child(void)
{
	pid_t pid = forked();

	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

static void start_pair(struct count *count, pid_t pids[2])
{
	int there[2], back[2];

	if (pipe(there) < 0 || pipe(back) < 0)
		die("make a pipe");
	pids[0] = child();
	if (pids[0] == 0)
		answer(there[0], back[1]);
	pids[1] = child();
	if (pids[1] == 0)
		ask(there[1], back[0], count);
	for (int end = 0; end < 2; end++) {
		close(there[end]);
		close(back[end]);
	}
}

static long trips(long pairs)
{
	long sum = 0;

	for (long i = 0; i < pairs; i++)
		sum += counts[i].trips;
	return sum;
}

int main(int argc, char **argv)
{
	long pairs = argc == 3 ? number(argv[1], 1) : -1;
	long seconds = argc == 3 ? number(argv[2], 1) : -1;
	long before, begun_ns, done, took_ns;
	pid_t pids[MAX_PAIRS][2];

	if (pairs < 0 || pairs > MAX_PAIRS || seconds < 0) {
		fprintf(stderr, "usage: ping_pong PAIRS SECONDS (up to %d pairs)\n", MAX_PAIRS);
		return 2;
	}
	counts = mmap(NULL, (size_t)pairs * sizeof(*counts), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (counts == MAP_FAILED)
		die("get memory");
	for (long i = 0; i < pairs; i++)
		start_pair(&counts[i], pids[i]);
	sleep(WARM_UP_S);
	begun_ns = now_ns();
	before = trips(pairs);
	sleep((unsigned int)seconds);
	done = trips(pairs) - before;
	took_ns = now_ns() - begun_ns;
	for (long i = 0; i < 2 * pairs; i++)
		kill(pids[i / 2][i % 2], SIGKILL);
	while (wait(NULL) > 0)
		;
	printf("{\"pairs\":%ld,\"round_trips\":%ld,\"took_ns\":%ld}\n", pairs, done, took_ns);
	return 0;
}
