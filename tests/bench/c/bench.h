/* SPDX-License-Identifier: Apache-2.0 */
/* What these programs share. _GNU_SOURCE comes first: it names the program. */
#ifndef BENCH_H
#define BENCH_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000L

__attribute__((noreturn)) static inline void die(const char *what)
{
	fprintf(stderr, "%s: cannot %s: %s\n", program_invocation_short_name, what,
		strerror(errno));
	exit(1);
}

static inline long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

static inline pid_t forked(void)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	return pid;
}

/* The argument as a number of at least `least`; -1 if it is none. */
static inline long number(const char *text, long least)
{
	char *end;
	long value = strtol(text, &end, 10);

	return *text && !*end && value >= least ? value : -1;
}

#endif
