/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "guardian_stopped.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

#define XATTR_STOPPED "trusted.agentcgroup.stopped"
#define START_TIME_FIELD 22 /* of /proc/PID/stat, in proc(5)'s numbering */

/* Of bpf(2), with the members of union bpf_attr that these commands read. */
enum { MAP_LOOKUP_ELEM = 1, MAP_DELETE_ELEM = 3, MAP_GET_NEXT_KEY = 4, OBJ_GET = 7 };

struct map_request {
	uint32_t map_fd;
	uint32_t pad;
	uint64_t key;
	uint64_t value; /* or where the next key goes */
	uint64_t flags;
};

struct object_request {
	uint64_t path;
	uint32_t bpf_fd;
	uint32_t file_flags;
};

/* struct acg_stopped of bpf/agentcgroup_abi.h */
struct stopped {
	uint64_t start_ticks;
	uint64_t stopped_ns;
	uint64_t due_ns;
	uint64_t cgroup_id;
};

static bool ask_map(int command, int map, const uint32_t *key, void *value)
{
	struct map_request request = { .map_fd = (uint32_t)map };

	request.key = (uint64_t)(uintptr_t)key;
	request.value = (uint64_t)(uintptr_t)value;
	return syscall(SYS_bpf, (long)command, &request, (long)sizeof(request), 0L, 0L, 0L) == 0;
}

/* Of one that lives; 0 if there is none with this number. */
static uint64_t start_ticks(uint32_t pid)
{
	char path[32], stat[1024];
	struct text text = TEXT_IN(path);
	const char *at;
	ssize_t n;
	uint64_t ticks;
	int fd, field = 2;

	text_add(&text, "/proc/");
	text_add_number(&text, pid);
	text_add(&text, "/stat");
	fd = open(text_string(&text), O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, stat, sizeof(stat));
	close(fd);
	if (n <= 0)
		return 0;
	/* the name, which is the second field, may hold blanks and parentheses */
	at = stat + n;
	while (at > stat && at[-1] != ')')
		at--;
	for (; at < stat + n && field < START_TIME_FIELD; at++)
		field += *at == ' ';
	return parse_number(at, (size_t)(stat + n - at), &ticks) ? ticks : 0;
}

/* A number may be somebody else's by now: asked again once a descriptor holds the process. */
static bool go_on(uint32_t pid, uint64_t born_ticks)
{
	long process = syscall(SYS_pidfd_open, (long)pid, 0L, 0L, 0L, 0L, 0L);
	bool continued = false;

	if (process < 0)
		return false;
	if (start_ticks(pid) == born_ticks)
		continued = syscall(SYS_pidfd_send_signal, process, (long)SIGCONT, 0L, 0L, 0L,
				    0L) == 0;
	close((int)process);
	return continued;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static unsigned int continue_listed(int map, bool all)
{
	uint32_t key, next;
	bool more = ask_map(MAP_GET_NEXT_KEY, map, NULL, &next);
	unsigned int continued = 0;
	uint64_t now = now_ns();

	while (more) {
		struct stopped stopped;

		key = next;
		/* first the next one: this one may be deleted */
		more = ask_map(MAP_GET_NEXT_KEY, map, &key, &next);
		if (!ask_map(MAP_LOOKUP_ELEM, map, &key, &stopped))
			continue;
		if (!all && stopped.due_ns > now)
			continue;
		continued += go_on(key, stopped.start_ticks);
		ask_map(MAP_DELETE_ELEM, map, &key, NULL);
	}
	return continued;
}

static unsigned int continue_in(const char *directory, const char *name, bool all)
{
	char path[512];
	struct text text = TEXT_IN(path);
	struct object_request request = { 0 };
	unsigned int continued;
	long map;

	text.capacity--;
	text_add(&text, directory);
	text_add(&text, name);
	request.path = (uint64_t)(uintptr_t)text_string(&text);
	map = syscall(SYS_bpf, (long)OBJ_GET, &request, (long)sizeof(request), 0L, 0L, 0L);
	if (map < 0) {
		if (errno != ENOENT)
			say("cannot open ", path, ": ", error_text(errno), NULL);
		return 0;
	}
	continued = continue_listed((int)map, all);
	close((int)map);
	return continued;
}

unsigned int stopped_continue(const char *root, bool all)
{
	char directory[400];
	ssize_t n = getxattr(root, XATTR_STOPPED, directory, sizeof(directory) - 1);

	if (n <= 0)
		return 0;
	directory[n] = '\0';
	return continue_in(directory, "/a/stopped", all) + continue_in(directory, "/b/stopped", all);
}
