/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of agentcgroup-run. Values travel as text: the daemon knows the units. */
#ifndef AGENTCGROUP_OPTIONS_H
#define AGENTCGROUP_OPTIONS_H

#include "text.h"

enum {
	EXIT_USAGE = 2,
	EXIT_DAEMON_ABSENT = 69,
	EXIT_REFUSED = 75,
	EXIT_NOT_PERMITTED = 77,
	EXIT_BAD_CONFIG = 78,
	EXIT_TIMED_OUT = 124,
	EXIT_SHIM_FAILED = 125,
	EXIT_KILLED = 137,
	EXIT_STOPPED = 143,
};

enum option {
	OPTION_MEMORY,
	OPTION_MEMORY_MAX,
	OPTION_SWAP_MAX,
	OPTION_CPU,
	OPTION_CPU_MAX,
	OPTION_PIDS_MAX,
	OPTION_IO_WEIGHT,
	OPTION_LATENCY,
	OPTION_DURATION,
	OPTION_TIMEOUT,
	OPTION_ON_EXCEED,
	OPTION_MAX_WAIT,
	OPTION_BACKGROUND,
	OPTION_LABEL,
	OPTION_RETRY_OF,
	OPTION_INTENTS, /* those before are fields of the intent */
	OPTION_SESSION = OPTION_INTENTS,
	OPTION_JSON_OUTCOME,
	OPTION_HOLD_FD,
	OPTION_COUNT,
};

struct options {
	const char *value[OPTION_COUNT]; /* NULL: not given */
	bool require;
	bool shell;	  /* the command is a shell that somebody takes this program for */
	bool interactive; /* and nobody's tool call */
	bool login;	  /* its name begins with a dash */
	char **command;
	int64_t reconnect_ms;
};

/* Returns -1 to go on, else the exit status to leave with. */
int options_parse(struct options *options, int argc, char **argv);

/* Sets a field of the intent by its name, `name=value`; NULL or what would be accepted. */
const char *options_set(struct options *options, char *name, char *equals);

/* Adds the intent as a JSON object, with the command line as its `command`. */
void options_add_intent(const struct options *options, struct text *out);

#endif
