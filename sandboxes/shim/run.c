/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agentcgroup-run: one command as one tool call.
 *
 *   ask     connect, fork the command's process (it waits), tool.begin with its pidfd
 *   run     let it go; forward signals; come back to a restarted daemon (tool.resume)
 *   finish  tool.end, show the outcome, exit with the command's status
 *
 * Without a daemon the command runs all the same, with one line that says so.
 */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "reply.h"

#define REBIND_INTERVAL_MS 1000

struct run run;

void write_outcome(struct slice outcome)
{
	ssize_t n;

	if (run.outcome_fd < 0)
		return;
	n = write(run.outcome_fd, outcome.data, outcome.size);
	if (n != (ssize_t)outcome.size || write(run.outcome_fd, "\n", 1) != 1)
		say("cannot write ", run.options.value[OPTION_JSON_OUTCOME], NULL);
	close(run.outcome_fd);
	run.outcome_fd = -1;
}

void say_error(const char *before)
{
	char line[12288];
	struct text text = TEXT_IN(line);

	text_add(&text, before);
	reply_add_error(run.line, &text);
	say_foreign(line, text.length);
}

/* Until the command ends. A restarted daemon needs to hear from us that we live. */
static void run_until_end(bool managed)
{
	int64_t rebind_ms = -1;

	while (!run.child.ended) {
		switch (wait_event(rebind_ms)) {
		case EVENT_SIGNAL:
			child_signal(&run.child, &run.signal);
			break;
		case EVENT_BROKEN:
			rebind_ms = now_ms() + CONNECT_INTERVAL_MS;
			break;
		case EVENT_TIMEOUT:
			rebind_ms = now_ms() + REBIND_INTERVAL_MS;
			if (managed && reconnect() && send_resume())
				rebind_ms = -1;
			break;
		case EVENT_LINE:
			break;
		}
	}
}

/* Waits for the answer; false when there is none by then or a signal says hurry. */
static bool await_outcome(int64_t deadline_ms, bool *hurry)
{
	for (;;) {
		switch (wait_event(deadline_ms)) {
		case EVENT_LINE:
			return true;
		case EVENT_SIGNAL:
			*hurry = run.signal.ssi_signo == SIGINT || run.signal.ssi_signo == SIGTERM ||
				 run.signal.ssi_signo == SIGHUP || run.signal.ssi_signo == SIGQUIT;
			if (*hurry)
				return false;
			break;
		case EVENT_BROKEN:
		case EVENT_TIMEOUT:
			return false;
		}
	}
}

/* Reports the end; the exit status, after showing what the daemon says about it. */
static int finish(void)
{
	int64_t deadline_ms = now_ms() + run.options.reconnect_ms;
	int seen = child_status(&run.child);
	bool hurry = false, end_sent = false;
	struct slice outcome;

	while (!hurry && now_ms() < deadline_ms) {
		bool resume = end_sent || run.link.fd < 0, sent = false;

		if (run.link.fd >= 0 || reconnect())
			sent = resume ? send_resume() : send_end();
		end_sent = true;
		if (!sent || !await_outcome(deadline_ms, &hurry)) {
			if (!hurry)
				await_outcome(now_ms() + CONNECT_INTERVAL_MS, &hurry);
			continue;
		}
		if (json_find(run.line, "result.outcome", &outcome) ||
		    json_find(run.line, "result.call.outcome", &outcome)) {
			write_outcome(outcome);
			return outcome_status(outcome, seen);
		}
		if (reply_is_leaving(run.line)) {
			link_close(&run.link);
		} else if (resume) {
			say_error("how the call ended is unknown: ");
			return seen;
		}
	}
	if (!hurry)
		say("the daemon did not come back: how the call ended is unknown", NULL);
	return seen;
}

static bool make_key(void)
{
	static const char hex[] = "0123456789abcdef";
	unsigned char bytes[16];

	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes)) {
		say("cannot get random bytes: ", error_text(errno), NULL);
		return false;
	}
	for (size_t i = 0; i < sizeof(bytes); i++) {
		run.key[2 * i] = hex[bytes[i] >> 4];
		run.key[2 * i + 1] = hex[bytes[i] & 15];
	}
	return true;
}

/* A closed stdin, stdout or stderr must not become one of our descriptors. */
static void fill_standard_fds(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			(void)!open("/dev/null", O_RDWR | O_CLOEXEC);
}

static bool open_outcome(void)
{
	const char *path = run.options.value[OPTION_JSON_OUTCOME];

	if (!path)
		return true;
	run.outcome_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (run.outcome_fd >= 0)
		return true;
	say("--json-outcome: cannot write '", path, "': ", error_text(errno), NULL);
	return false;
}

int main(int argc, char **argv)
{
	int status;
	enum ask asked;
	struct budget budget = { 0 };

	fill_standard_fds();
	status = options_parse(&run.options, argc, argv);
	if (status >= 0)
		return status;
	if (run.options.interactive)
		return exec_shell(run.options.command, run.options.login);
	if (run.options.value[OPTION_HOLD_FD])
		return exec_after_hold(run.options.value[OPTION_HOLD_FD], run.options.command);
	run.outcome_fd = run.probe_fd = run.link.fd = -1;
	if (!open_outcome())
		return EXIT_USAGE;
	if (!sockets_find(&run.sockets))
		return EXIT_BAD_CONFIG;
	if (!make_key() || !child_prepare(&run.child))
		return EXIT_SHIM_FAILED;

	asked = ask(&status);
	if (asked == ASK_MANAGED) {
		run.contacted = true;
		budget_read(run.line, &budget);
		child_release(&run.child, &budget);
		run_until_end(true);
		status = finish();
	} else if (asked == ASK_EXIT) {
		child_discard(&run.child);
	}
	write_outcome((struct slice){ "null", 4 });
	if (asked != ASK_UNMANAGED)
		return status;
	link_close(&run.link);
	if (!run.child.pid)
		return child_become(&run.child, run.options.command);
	child_release(&run.child, &budget);
	run_until_end(false);
	return child_status(&run.child);
}
