/* SPDX-License-Identifier: Apache-2.0 */
#include "reply.h"

#include <string.h>

#include "options.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Kinds that are not listed mean a daemon that can't serve this request at all. */
static const struct {
	const char *kind;
	int status;
} refusals[] = {
	{ "invalid_params", EXIT_USAGE },
	{ "invalid_request", EXIT_USAGE },
	{ "not_found", EXIT_USAGE },
	{ "message_too_large", EXIT_USAGE },
	{ "refused", EXIT_REFUSED },
	{ "wait_timeout", EXIT_REFUSED },
	{ "over_budget", EXIT_REFUSED },
	{ "too_many", EXIT_REFUSED },
	{ "not_permitted", EXIT_NOT_PERMITTED },
	{ "no_session", EXIT_NOT_PERMITTED },
	{ "target_refused", EXIT_NOT_PERMITTED },
	{ "not_supported", EXIT_BAD_CONFIG },
	{ "no_identity", EXIT_BAD_CONFIG },
	{ "bad_descriptor", EXIT_BAD_CONFIG },
};

static bool kind_is(struct slice reply, const char *kind)
{
	struct slice value;

	return json_find(reply, "error.data.kind", &value) && json_equals(value, kind);
}

static int status_of(struct slice reply)
{
	for (size_t i = 0; i < COUNT(refusals); i++)
		if (kind_is(reply, refusals[i].kind))
			return refusals[i].status;
	return 0;
}

bool reply_is_about_identity(struct slice reply)
{
	return kind_is(reply, "no_session") || kind_is(reply, "no_identity") ||
	       kind_is(reply, "not_permitted");
}

enum verdict reply_verdict(struct slice reply, int *status)
{
	*status = status_of(reply);
	/* Nobody's agent, a kernel that can't tell, or a session that is not the caller's. */
	if (reply_is_about_identity(reply) || kind_is(reply, "not_supported") ||
	    kind_is(reply, "not_found"))
		return VERDICT_OTHER_SOCKET;
	if (reply_is_leaving(reply))
		return VERDICT_AGAIN;
	return *status ? VERDICT_EXIT : VERDICT_UNMANAGED;
}

bool reply_is_leaving(struct slice reply)
{
	return kind_is(reply, "shutting_down");
}

bool reply_is_refusal(struct slice reply)
{
	return status_of(reply) == EXIT_REFUSED;
}

/* Adds a string of the reply; what does not fit is cut. */
static bool add_text(struct slice reply, const char *path, struct text *out)
{
	char text[4096];
	struct slice value;
	size_t size, room = out->capacity - out->length;

	if (!json_find(reply, path, &value) || !json_text(value, text, sizeof(text), &size) || !size)
		return false;
	text_add_bytes(out, text, size < room ? size : room);
	return true;
}

/* Whether the text's last `size` bytes also stand somewhere in its first `before` bytes. */
static bool repeats(const struct text *text, size_t before, size_t size)
{
	const char *tail = text->data + text->length - size;

	for (size_t i = 0; i + size <= before; i++)
		if (!memcmp(text->data + i, tail, size))
			return true;
	return false;
}

void reply_add_error(struct slice reply, struct text *out)
{
	size_t message_end, remedy;

	if (!add_text(reply, "error.message", out))
		text_add(out, "the daemon gave no reason");
	message_end = out->length;
	text_add(out, "; ");
	remedy = out->length;
	/* The daemon's errors on values carry the remedy in the message already. */
	if (!add_text(reply, "error.data.remedy", out) ||
	    repeats(out, message_end, out->length - remedy))
		out->length = message_end;
}

int outcome_status(struct slice outcome, int seen)
{
	static const struct {
		const char *reason;
		int status;
	} reasons[] = {
		{ "oom_killed", EXIT_KILLED },   { "killed_by_policy", EXIT_KILLED },
		{ "timed_out", EXIT_TIMED_OUT }, { "stopped_by_supervisor", EXIT_STOPPED },
		{ "refused", EXIT_REFUSED },
	};
	static char message[65536];
	struct slice value;
	size_t size;

	if (json_find(outcome, "message", &value) &&
	    json_text(value, message, sizeof(message), &size) && size)
		say_foreign(message, size);
	if (json_find(outcome, "reason", &value))
		for (size_t i = 0; i < COUNT(reasons); i++)
			if (json_equals(value, reasons[i].reason))
				return reasons[i].status;
	return seen;
}
