/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int notify_fd = -1;

void notify_open(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *path = getenv("NOTIFY_SOCKET");
	size_t size = path ? strlen(path) : 0;
	socklen_t address_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size);

	if (size == 0)
		return;
	if (size >= sizeof(address.sun_path) || (path[0] != '/' && path[0] != '@')) {
		say("NOTIFY_SOCKET: cannot use '", path, "'", NULL);
		return;
	}
	memcpy(address.sun_path, path, size);
	if (path[0] == '@')
		address.sun_path[0] = 0; /* abstract: no zero at the end belongs to it */
	else
		address_size++;
	notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (notify_fd < 0 || connect(notify_fd, (struct sockaddr *)&address, address_size) < 0) {
		say("cannot reach the service manager on ", path, ": ", error_text(errno), NULL);
		if (notify_fd >= 0)
			close(notify_fd);
		notify_fd = -1;
	}
}

void notify_send(const char *state)
{
	if (notify_fd >= 0 && sendto(notify_fd, state, strlen(state), MSG_NOSIGNAL, NULL, 0) < 0)
		say("cannot tell the service manager ", state, ": ", error_text(errno), NULL);
}

int64_t notify_watchdog_ms(void)
{
	const char *period = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	uint64_t value;

	if (notify_fd < 0 || !period || !parse_number(period, strlen(period), &value) || !value)
		return -1;
	if (pid) {
		uint64_t wanted;

		if (!parse_number(pid, strlen(pid), &wanted) || wanted != (uint64_t)getpid())
			return -1;
	}
	/* A third of the period: one late beat is not the end. */
	return value / 3000 ? (int64_t)(value / 3000) : 1;
}
