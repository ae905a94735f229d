/* SPDX-License-Identifier: Apache-2.0 */
/* The one run of agentcgroup-run: its state, and what its parts do for each other. */
#ifndef AGENTCGROUP_RUN_H
#define AGENTCGROUP_RUN_H

#include "child.h"
#include "link.h"
#include "options.h"

#define CONNECT_INTERVAL_MS 50

struct run {
	struct options options;
	struct sockets sockets;
	struct child child;
	struct link link;
	int which;       /* the socket in use */
	bool contacted;  /* a request was sent once: the daemon exists */
	int outcome_fd;  /* of --json-outcome until it is written, else -1 */
	int probe_fd;    /* open while a queued begin asks whether the daemon lives */
	int64_t probe_ms;
	uint64_t id;     /* of the request under way */
	char key[33];
	char call[65];
	struct slice line;
	struct signalfd_siginfo signal;
};

extern struct run run;

/* ---- exchange.c: events and requests ------------------------------------------- */

enum event { EVENT_LINE, EVENT_BROKEN, EVENT_SIGNAL, EVENT_TIMEOUT };

/* Waits until one thing happens; deadline_ms < 0 waits for ever. */
enum event wait_event(int64_t deadline_ms);

bool send_begin(void);
bool send_resume(void);
bool send_end(void);

/* The socket that took the begin; before that, the first that takes us. False with errno. */
bool reconnect(void);

/* Asks on a second connection whether the daemon lives, until it answers or hangs up. */
void probe_open(void);
void probe_close(void);

/* ---- ask.c: from nothing to a begun call --------------------------------------- */

enum ask { ASK_MANAGED, ASK_UNMANAGED, ASK_EXIT };

/* On return the call is begun (ASK_MANAGED), or nobody begins it; status for ASK_EXIT. */
enum ask ask(int *status);

/* ---- run.c --------------------------------------------------------------------- */

/* Into --json-outcome, the first time only. */
void write_outcome(struct slice outcome);

/* The error in run.line on stderr. */
void say_error(const char *before);

#endif
