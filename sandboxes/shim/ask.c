/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "reply.h"
#include "run.h"

#define CONNECT_MS 2000
#define PROBE_INTERVAL_MS 2000
#define NOT_A_CALL "no tool call"

/* A daemon that takes requests and never answers must not hold a command for ever. */
static bool daemon_hangs(void)
{
	if (run.probe_fd >= 0)
		return now_ms() - run.probe_ms >= run.options.reconnect_ms;
	probe_open(); /* if it can't be opened, the connection that waits will break, too */
	return false;
}

static enum ask unmanaged(const char *why, int *status)
{
	if (run.options.require) {
		say(why, ": not run (--require)", NULL);
		*status = EXIT_DAEMON_ABSENT;
		return ASK_EXIT;
	}
	say(why, ": the command runs without limits", NULL);
	return ASK_UNMANAGED;
}

static bool held_signal(int *status)
{
	*status = child_signal_while_held(&run.child, &run.signal);
	return *status >= 0;
}

/* Connects within the time allowed. ASK_MANAGED: connected. */
static enum ask reach_daemon(int64_t deadline_ms, int *status)
{
	while (!reconnect()) {
		int error = errno;
		int64_t now = now_ms();

		if (error == EACCES && !run.contacted) {
			say("cannot use ", run.sockets.path[0], ": ", error_text(error),
			    "; ask the host's administrator for access to the agent socket", NULL);
			*status = EXIT_NOT_PERMITTED;
			return run.options.shell ? unmanaged(NOT_A_CALL, status) : ASK_EXIT;
		}
		if (now >= deadline_ms) {
			char why[256];
			struct text text = TEXT_IN(why);

			text_add(&text, "no daemon answers on ");
			text_add(&text, run.sockets.path[0]);
			return unmanaged(text_string(&text), status);
		}
		if (wait_event(now + CONNECT_INTERVAL_MS) == EVENT_SIGNAL && held_signal(status))
			return ASK_EXIT;
	}
	return ASK_MANAGED;
}

/* A refusal is an outcome, too: the same few keys for whoever reads the file. */
static void write_refusal(void)
{
	static char json[8192];
	struct text out = TEXT_IN(json);
	struct slice message;

	text_add(&out, "{\"call\":\"\",\"session\":\"\",\"reason\":\"refused\",\"message\":");
	if (json_find(run.line, "error.message", &message) && message.size < sizeof(json) / 2)
		text_add_bytes(&out, message.data, message.size);
	else
		text_add(&out, "\"\"");
	text_add(&out, "}");
	write_outcome((struct slice){ out.data, out.length });
}

/* The other socket after a refusal on the first; keeps the first error if it can't help. */
static bool other_socket_connects(void)
{
	int next = run.which + 1, fd = -1;

	if (next < run.sockets.count)
		fd = link_connect(run.sockets.path[next]);
	if (fd < 0 && next < run.sockets.count && errno != ENOENT)
		say(run.sockets.path[next], ": ", error_text(errno), NULL);
	if (fd < 0)
		return false;
	link_close(&run.link);
	link_use(&run.link, fd);
	run.which = next;
	return true;
}

/* What the agents' socket refused: the better reason if the other socket won't have us. */
static struct {
	char line[12288];
	size_t size;
	int status;
} first_refusal;

static void keep_refusal(int status)
{
	struct text text = TEXT_IN(first_refusal.line);

	reply_add_error(run.line, &text);
	first_refusal.size = text.length;
	first_refusal.status = status;
}

static enum ask refused(int *status)
{
	if (first_refusal.size && reply_is_about_identity(run.line)) {
		say_foreign(first_refusal.line, first_refusal.size);
		*status = first_refusal.status;
		return run.options.shell ? unmanaged(NOT_A_CALL, status) : ASK_EXIT;
	}
	say_error("");
	if (run.options.shell && !reply_is_refusal(run.line))
		return unmanaged(NOT_A_CALL, status);
	if (reply_is_refusal(run.line))
		write_refusal();
	return ASK_EXIT;
}

/* ASK_MANAGED with an empty run.call means: send the begin again. */
static enum ask judge_answer(int *status)
{
	struct slice value;

	if (json_find(run.line, "result.call", &value) &&
	    json_text(value, run.call, sizeof(run.call), NULL) && run.call[0])
		return ASK_MANAGED;
	run.call[0] = 0;
	if (!json_find(run.line, "error", &value))
		return unmanaged("the daemon's answer has no call", status);
	switch (reply_verdict(run.line, status)) {
	case VERDICT_OTHER_SOCKET:
		if (!other_socket_connects())
			return refused(status);
		keep_refusal(*status);
		return ASK_MANAGED;
	case VERDICT_AGAIN:
		link_close(&run.link);
		return ASK_MANAGED;
	case VERDICT_UNMANAGED:
		say_error("");
		return unmanaged("the daemon can't take this call", status);
	case VERDICT_EXIT:
		break;
	}
	return refused(status);
}

/* Waits for the answer to tool.begin, for as long as the daemon queues it. */
static enum ask await_begin(int *status)
{
	int64_t interval_ms = run.options.reconnect_ms < PROBE_INTERVAL_MS ?
				      run.options.reconnect_ms : PROBE_INTERVAL_MS;
	int64_t look_ms = now_ms() + interval_ms;

	for (;;) {
		switch (wait_event(look_ms)) {
		case EVENT_LINE:
			return judge_answer(status);
		case EVENT_BROKEN:
			return ASK_MANAGED;
		case EVENT_SIGNAL:
			if (held_signal(status))
				return ASK_EXIT;
			break;
		case EVENT_TIMEOUT:
			if (daemon_hangs())
				return unmanaged("the daemon does not answer", status);
			look_ms = now_ms() + interval_ms;
			break;
		}
	}
}

enum ask ask(int *status)
{
	int64_t deadline_ms = now_ms() + CONNECT_MS, connected_ms;
	enum ask result;

	for (;;) {
		if (run.link.fd < 0) {
			result = reach_daemon(deadline_ms, status);
			if (result != ASK_MANAGED)
				return result;
		}
		if (!run.child.pid && !child_start(&run.child, run.options.command)) {
			*status = EXIT_SHIM_FAILED;
			return ASK_EXIT;
		}
		connected_ms = now_ms();
		if (send_begin()) {
			result = await_begin(status);
			probe_close();
			if (result != ASK_MANAGED || run.call[0])
				return result;
		}
		if (run.link.fd >= 0)
			continue; /* the other socket */
		/* One allowance for a daemon that breaks at once again and again. */
		if (!run.contacted || now_ms() - connected_ms > CONNECT_MS)
			deadline_ms = now_ms() + run.options.reconnect_ms;
		else if (now_ms() >= deadline_ms)
			return unmanaged("the daemon hangs up instead of answering", status);
		run.contacted = true;
		if (wait_event(now_ms() + CONNECT_INTERVAL_MS) == EVENT_SIGNAL && held_signal(status))
			return ASK_EXIT;
	}
}
