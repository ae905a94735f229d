/* SPDX-License-Identifier: Apache-2.0 */
/* One connection to the daemon: a line out (with at most one descriptor), lines in. */
#ifndef AGENTCGROUP_LINK_H
#define AGENTCGROUP_LINK_H

#include "json.h"

#define MAX_MESSAGE_BYTES (1 << 20)
#define MAX_SOCKET_PATH 108

/* Where the daemon may be asked: the agents' socket first, then the administrators'. */
struct sockets {
	char path[2][MAX_SOCKET_PATH];
	int count;
};

struct link {
	int fd; /* -1: not connected */
	size_t used;
	size_t line_size; /* of the line handed out last, with its newline */
	char buffer[MAX_MESSAGE_BYTES + 1];
};

/* From AGENTCGROUP_SOCKET; false (and a line on stderr) if a path can't be a socket's. */
bool sockets_find(struct sockets *sockets);

/* A connected non-blocking descriptor, or -1 with errno. */
int link_connect(const char *path);

void link_use(struct link *link, int fd);
void link_close(struct link *link);

/* Sends one whole line; `passed_fd` (or -1) travels on its first byte. */
bool link_send(int fd, const struct text *line, int passed_fd);

enum link_state { LINK_LINE, LINK_AGAIN, LINK_BROKEN };

/* The next whole line, valid until the next call. Never blocks. */
enum link_state link_receive(struct link *link, struct slice *line);

#endif
