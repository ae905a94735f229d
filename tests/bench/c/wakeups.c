/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How late a periodic process wakes up: it sleeps until planned times, and lateness is the
 * actual time less the planned one. Planned times that passed while it was late are left out
 * and counted as missed: each sample is one real sleep.
 *
 *   wakeups PERIOD_US WORK_US COUNT
 *
 * After each wakeup it computes for WORK_US. Prints one JSON object; lateness is in ns.
 */
#define _GNU_SOURCE
#include <sys/prctl.h>

#include "bench.h"

#define WARM_UP 20

static long missed;

static void sleep_until(long planned_ns)
{
	struct timespec planned = { planned_ns / NS_PER_S, planned_ns % NS_PER_S };

	errno = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &planned, NULL);
	if (errno)
		die("sleep");
}

static void measure(long period_ns, long work_ns, long count, long *late_ns)
{
	long planned_ns = now_ns();

	for (long i = -WARM_UP; i < count; i++) {
		long woken_ns, left_out = -1;

		do {
			planned_ns += period_ns;
			left_out++;
		} while (planned_ns <= now_ns());
		sleep_until(planned_ns);
		woken_ns = now_ns();
		if (i >= 0) {
			late_ns[i] = woken_ns - planned_ns;
			missed += left_out;
		}
		while (now_ns() < woken_ns + work_ns)
			;
	}
}

int main(int argc, char **argv)
{
	long period_us = argc == 4 ? number(argv[1], 1) : -1;
	long work_us = argc == 4 ? number(argv[2], 0) : -1;
	long count = argc == 4 ? number(argv[3], 1) : -1;
	long *late_ns;

	if (period_us < 0 || work_us < 0 || count < 0) {
		fprintf(stderr, "usage: wakeups PERIOD_US WORK_US COUNT\n");
		return 2;
	}
	late_ns = calloc((size_t)count, sizeof(*late_ns));
	if (!late_ns)
		die("get memory");
	/* Touched before, so that no page fault is taken for a late wakeup. */
	memset(late_ns, 1, (size_t)count * sizeof(*late_ns));
	if (prctl(PR_SET_TIMERSLACK, 1UL) < 0)
		die("set the timer slack");
	measure(period_us * 1000, work_us * 1000, count, late_ns);
	printf("{\"missed\":%ld,\"late_ns\":[", missed);
	for (long i = 0; i < count; i++)
		printf("%s%ld", i ? "," : "", late_ns[i]);
	printf("]}\n");
	return 0;
}
