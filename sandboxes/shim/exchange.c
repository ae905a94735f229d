/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "run.h"

void probe_close(void)
{
	if (run.probe_fd >= 0)
		close(run.probe_fd);
	run.probe_fd = -1;
}

void probe_open(void)
{
	static const char line[] =
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"host.version\",\"params\":{}}\n";
	struct text text = { (char *)line, sizeof(line) - 1, sizeof(line), false };

	run.probe_fd = link_connect(run.sockets.path[run.which]);
	run.probe_ms = now_ms();
	if (run.probe_fd >= 0 && !link_send(run.probe_fd, &text, -1))
		probe_close();
}

static bool line_is_answer(void)
{
	struct slice id;
	uint64_t number;

	return json_find(run.line, "id", &id) && parse_number(id.data, id.size, &number) &&
	       number == run.id;
}

enum event wait_event(int64_t deadline_ms)
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

bool send_begin(void)
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

bool send_resume(void)
{
	struct text out = TEXT_IN(request_space);

	request_open(&out, "tool.resume");
	add_member(&out, "\"key\":", run.key);
	if (run.child.ended)
		add_ended(&out);
	return request_send(&out, -1);
}

bool send_end(void)
{
	struct text out = TEXT_IN(request_space);

	request_open(&out, "tool.end");
	add_member(&out, "\"call\":", run.call);
	add_ended(&out);
	return request_send(&out, -1);
}

bool reconnect(void)
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
