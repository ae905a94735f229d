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
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "child.h"
#include "link.h"
#include "options.h"
#include "reply.h"

#define CONNECT_MS 2000
#define CONNECT_INTERVAL_MS 50
#define REBIND_INTERVAL_MS 1000
#define PROBE_INTERVAL_MS 2000

enum event { EVENT_LINE, EVENT_BROKEN, EVENT_SIGNAL, EVENT_TIMEOUT };
enum ask { ASK_MANAGED, ASK_UNMANAGED, ASK_EXIT };

static struct run {
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
} run;

/* ---- events ------------------------------------------------------------------- */

static void probe_close(void)
{
	if (run.probe_fd >= 0)
		close(run.probe_fd);
	run.probe_fd = -1;
}

static bool line_is_answer(void)
{
	struct slice id;
	uint64_t number;

	return json_find(run.line, "id", &id) && parse_number(id.data, id.size, &number) &&
	       number == run.id;
}

/* Waits until one thing happens; deadline_ms < 0 waits for ever. */
static enum event wait_event(int64_t deadline_ms)
{
	for (;;) {
		struct pollfd fds[3] = { { run.child.signal_fd, POLLIN, 0 },
					 { run.link.fd, POLLIN, 0 },
					 { run.probe_fd, POLLIN, 0 } };
		int64_t left = deadline_ms < 0 ? -1 : deadline_ms - now_ms();

		if (deadline_ms >= 0 && left < 0)
			left = 0;
		if (poll(fds, 3, left > 1 << 30 ? 1 << 30 : (int)left) == 0)
			return EVENT_TIMEOUT;
		if (child_next_signal(&run.child, &run.signal))
			return EVENT_SIGNAL;
		if (fds[2].revents)
			probe_close(); /* an answer or a hang-up: somebody is at work */
		if (fds[1].revents) {
			enum link_state state;

			while ((state = link_receive(&run.link, &run.line)) == LINK_LINE)
				if (line_is_answer())
					return EVENT_LINE;
			if (state == LINK_BROKEN) {
				link_close(&run.link);
				return EVENT_BROKEN;
			}
		}
	}
}

/* ---- requests ----------------------------------------------------------------- */

static void request_open(struct text *out, const char *method)
{
	text_add(out, "{\"jsonrpc\":\"2.0\",\"id\":");
	text_add_number(out, ++run.id);
	text_add(out, ",\"method\":\"");
	text_add(out, method);
	text_add(out, "\",\"params\":{");
}

static bool request_send(struct text *out, int passed_fd)
{
	text_add(out, "}}\n");
	if (link_send(run.link.fd, out, passed_fd))
		return true;
	link_close(&run.link);
	return false;
}

static void add_member(struct text *out, const char *name, const char *value)
{
	text_add(out, name);
	json_add_string(out, value, strlen(value));
}

static void add_ended(struct text *out)
{
	bool exited = run.child.exit_code >= 0;

	text_add(out, exited ? ",\"exit_code\":" : ",\"signal\":");
	text_add_number(out, (uint64_t)(exited ? run.child.exit_code : run.child.signal));
}

/* Every option at its longest, every byte escaped, fits twice. */
static char request_space[1 << 18];

static bool send_begin(void)
{
	struct text out = TEXT_IN(request_space);

	request_open(&out, "tool.begin");
	add_member(&out, "\"key\":", run.key);
	text_add(&out, ",\"intent\":");
	options_add_intent(&run.options, &out);
	if (run.options.value[OPTION_SESSION])
		add_member(&out, ",\"session\":", run.options.value[OPTION_SESSION]);
	return request_send(&out, run.child.pidfd);
}

static bool send_resume(void)
{
	struct text out = TEXT_IN(request_space);

	request_open(&out, "tool.resume");
	add_member(&out, "\"key\":", run.key);
	if (run.child.ended)
		add_ended(&out);
	return request_send(&out, -1);
}

static bool send_end(void)
{
	struct text out = TEXT_IN(request_space);

	request_open(&out, "tool.end");
	add_member(&out, "\"call\":", run.call);
	add_ended(&out);
	return request_send(&out, -1);
}

/* The socket that took the begin; before that, the first that takes us. False with errno. */
static bool reconnect(void)
{
	int error = ENOENT;
	int end = run.contacted ? run.which + 1 : run.sockets.count;

	for (int which = run.which; which < end; which++) {
		int fd = link_connect(run.sockets.path[which]);

		if (fd >= 0) {
			link_use(&run.link, fd);
			run.which = which;
			return true;
		}
		if (error == ENOENT)
			error = errno; /* the first that is more than "not there" */
	}
	errno = error;
	return false;
}

/* ---- ask ---------------------------------------------------------------------- */

/* A daemon that takes requests and never answers must not hold a command for ever. */
static bool daemon_hangs(void)
{
	static const char line[] =
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"host.version\",\"params\":{}}\n";
	int fd;
	struct text text = { (char *)line, sizeof(line) - 1, sizeof(line), false };

	if (run.probe_fd >= 0)
		return now_ms() - run.probe_ms >= run.options.reconnect_ms;
	fd = link_connect(run.sockets.path[run.which]);
	if (fd < 0)
		return false; /* the connection that waits will break, too */
	run.probe_fd = fd;
	run.probe_ms = now_ms();
	if (!link_send(fd, &text, -1))
		probe_close();
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
			return ASK_EXIT;
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

static void write_outcome(struct slice outcome)
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

static void say_error(const char *before)
{
	char line[12288];
	struct text text = TEXT_IN(line);

	text_add(&text, before);
	reply_add_error(run.line, &text);
	say_foreign(line, text.length);
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
		return ASK_EXIT;
	}
	say_error("");
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

/* On return the call is begun (ASK_MANAGED), or nobody begins it. */
static enum ask ask(int *status)
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

/* ---- run and finish ----------------------------------------------------------- */

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

/* ---- start -------------------------------------------------------------------- */

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

	fill_standard_fds();
	status = options_parse(&run.options, argc, argv);
	if (status >= 0)
		return status;
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
		child_release(&run.child);
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
	child_release(&run.child);
	run_until_end(false);
	return child_status(&run.child);
}
