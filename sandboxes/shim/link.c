/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "link.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/agentcgroup/agent/agent.sock"
#define SEND_TIMEOUT_MS 5000

static bool ends_with(const char *text, const char *end)
{
	size_t size = strlen(text), end_size = strlen(end);

	return size >= end_size && !strcmp(text + size - end_size, end);
}

/*
 * The administrators' socket beside the agents' one:
 *   DIR/agent/NAME -> DIR/admin.sock        X.sock -> X.admin.sock
 */
static void admin_path(const char *agent, struct text *out)
{
	const char *slash = strrchr(agent, '/');
	size_t directory = slash ? (size_t)(slash - agent) : 0;

	if (slash && directory >= 6 && !memcmp(slash - 6, "/agent", 6)) {
		text_add_bytes(out, agent, directory - 5);
		text_add(out, "admin.sock");
		return;
	}
	text_add_bytes(out, agent, strlen(agent) - (ends_with(agent, ".sock") ? 5 : 0));
	text_add(out, ".admin.sock");
}

bool sockets_find(struct sockets *sockets)
{
	const char *path = getenv("AGENTCGROUP_SOCKET");
	struct text agent = TEXT_IN(sockets->path[0]);
	struct text admin = TEXT_IN(sockets->path[1]);

	if (!path || !*path)
		path = DEFAULT_SOCKET;
	if (path[0] != '/') {
		say("AGENTCGROUP_SOCKET: cannot use '", path,
		    "': use an absolute path, like " DEFAULT_SOCKET, NULL);
		return false;
	}
	agent.capacity--;
	admin.capacity--;
	text_add(&agent, path);
	if (agent.full) {
		say("AGENTCGROUP_SOCKET: cannot use '", path,
		    "': a socket's path may have 107 bytes; use a shorter one", NULL);
		return false;
	}
	text_string(&agent);
	sockets->count = 1;
	if (ends_with(path, "admin.sock"))
		return true;
	admin_path(path, &admin);
	text_string(&admin);
	sockets->count = admin.full ? 1 : 2;
	return true;
}

int link_connect(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -1;
	memcpy(address.sun_path, path, strlen(path));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		int error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

void link_use(struct link *link, int fd)
{
	link->fd = fd;
	link->used = 0;
	link->line_size = 0;
}

void link_close(struct link *link)
{
	if (link->fd >= 0)
		close(link->fd);
	link_use(link, -1);
}

static ssize_t send_part(int fd, const char *data, size_t size, int passed_fd)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	struct iovec part = { (void *)data, size };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (passed_fd >= 0) {
		message.msg_control = control.space;
		message.msg_controllen = sizeof(control.space);
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.align), &passed_fd, sizeof(int));
	}
	return sendmsg(fd, &message, MSG_NOSIGNAL);
}

bool link_send(int fd, const struct text *line, int passed_fd)
{
	size_t sent = 0;

	while (sent < line->length) {
		/* With the first byte only: what has arrived must not arrive twice. */
		ssize_t n = send_part(fd, line->data + sent, line->length - sent,
				      sent ? -1 : passed_fd);

		if (n > 0) {
			sent += (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			struct pollfd wait = { fd, POLLOUT, 0 };

			if (poll(&wait, 1, SEND_TIMEOUT_MS) <= 0)
				return false;
		} else if (n == 0 || errno != EINTR) {
			return false;
		}
	}
	return true;
}

enum link_state link_receive(struct link *link, struct slice *line)
{
	size_t searched = 0;

	if (link->line_size) {
		link->used -= link->line_size;
		memmove(link->buffer, link->buffer + link->line_size, link->used);
		link->line_size = 0;
	}
	for (;;) {
		char *end = memchr(link->buffer + searched, '\n', link->used - searched);
		ssize_t n;

		if (end) {
			line->data = link->buffer;
			line->size = (size_t)(end - link->buffer);
			link->line_size = line->size + 1;
			return LINK_LINE;
		}
		searched = link->used;
		if (link->used == sizeof(link->buffer))
			return LINK_BROKEN;
		n = read(link->fd, link->buffer + link->used, sizeof(link->buffer) - link->used);
		if (n > 0)
			link->used += (size_t)n;
		else if (n < 0 && errno == EAGAIN)
			return LINK_AGAIN;
		else if (n == 0 || errno != EINTR)
			return LINK_BROKEN;
	}
}
