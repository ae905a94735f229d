/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon's answers mean for the exit status, and how they are shown. */
#ifndef AGENTCGROUP_REPLY_H
#define AGENTCGROUP_REPLY_H

#include "json.h"

enum verdict {
	VERDICT_OTHER_SOCKET, /* not here, but the administrators' socket may do it */
	VERDICT_AGAIN,        /* the daemon is leaving: ask its successor */
	VERDICT_UNMANAGED,    /* it can't serve anybody: the failure stance applies */
	VERDICT_EXIT,
};

/* What a refused tool.begin leads to; `status` is set for VERDICT_EXIT. */
enum verdict reply_verdict(struct slice reply, int *status);

/* True if the refusal is about who asks, not about what is asked for. */
bool reply_is_about_identity(struct slice reply);

/* Adds the daemon's error with its remedy, for say_foreign. */
void reply_add_error(struct slice reply, struct text *out);

/* True if the error is a refusal of this call (and so is an outcome). */
bool reply_is_refusal(struct slice reply);

/* True if the daemon answered that it is shutting down. */
bool reply_is_leaving(struct slice reply);

/* Prints the outcome's message and returns the exit status, given the one seen. */
int outcome_status(struct slice outcome, int seen);

#endif
