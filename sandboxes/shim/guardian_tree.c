/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "guardian_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "json.h"

#define XATTR_ADOPTED "trusted.agentcgroup.adopted."
#define XATTR_SESSION "trusted.agentcgroup.session"
#define XATTR_EPOCH "trusted.agentcgroup.epoch"
#define XATTR_EPOCH_TIME "trusted.agentcgroup.epoch_time_ns"
#define NO_LIMIT UINT64_MAX
#define RANKS 3

struct visit {
	unsigned int leaves;
	uint64_t used_bytes;   /* by all sessions */
	uint64_t share_bytes;  /* for each leaf */
	int rank;              /* -1: only count */
	bool all;
	struct relief *done;
};

/* A cgroup that is gone meanwhile is an ordinary result and says nothing. */
static void complain(const char *directory, const char *file)
{
	if (errno != ENOENT && errno != ENODEV)
		say("cannot use ", file, " of ", directory, ": ", error_text(errno), NULL);
}

/* ---- files -------------------------------------------------------------------- */

static ssize_t read_file(int directory, const char *file, char *out, size_t capacity)
{
	int fd = openat(directory, file, O_RDONLY | O_CLOEXEC);
	ssize_t n;
	int error;

	if (fd < 0)
		return -1;
	n = read(fd, out, capacity);
	error = errno;
	close(fd);
	errno = error;
	return n;
}

static bool read_bytes(int directory, const char *file, uint64_t *value)
{
	char text[32];
	ssize_t n = read_file(directory, file, text, sizeof(text));

	if (n >= 3 && !memcmp(text, "max", 3)) {
		*value = NO_LIMIT;
		return true;
	}
	if (n >= 0)
		errno = EINVAL;
	return n > 0 && parse_number(text, (size_t)n, value);
}

static bool write_file(int directory, const char *file, const char *data, size_t size)
{
	/* Non-blocking: memory.high then sets the line without reclaiming down to it. */
	int fd = openat(directory, file, O_WRONLY | O_TRUNC | O_NONBLOCK | O_CLOEXEC);
	ssize_t n;
	int error;

	if (fd < 0)
		return false;
	n = write(fd, data, size);
	error = errno;
	close(fd);
	errno = error;
	return n == (ssize_t)size;
}

static bool write_bytes(int directory, const char *file, uint64_t value)
{
	char digits[24];
	struct text text = TEXT_IN(digits);

	text_add_number(&text, value);
	return write_file(directory, file, digits, text.length);
}

/* ---- leaves ------------------------------------------------------------------- */

static bool set_frozen(int leaf, const char *name, bool frozen)
{
	if (write_file(leaf, "cgroup.freeze", frozen ? "1" : "0", 1))
		return true;
	complain(name, "cgroup.freeze");
	return false;
}

/* Raises the grant; true if tasks may sleep in the penalty of the old one. */
static bool raise_grant(int leaf, const char *name, const struct visit *visit)
{
	uint64_t grant, cap, used, wanted;

	if (!read_bytes(leaf, "memory.high", &grant) || !read_bytes(leaf, "memory.current", &used)) {
		complain(name, "memory.high and memory.current");
		return false;
	}
	if (grant == NO_LIMIT)
		return false;
	if (!read_bytes(leaf, "memory.max", &cap)) {
		complain(name, "memory.max");
		return false;
	}
	bool near = used >= grant - grant / 8;

	if (!near && !visit->all)
		return false;
	wanted = used + visit->share_bytes;
	if (wanted > cap)
		wanted = cap;
	if (wanted <= grant)
		return false;
	if (!write_bytes(leaf, "memory.high", wanted)) {
		complain(name, "memory.high");
		return false;
	}
	visit->done->raised++;
	return near;
}

static void visit_leaf(int leaf, const char *name, struct visit *visit)
{
	char frozen = '0';
	bool asleep;

	visit->leaves++;
	if (visit->rank < 0)
		return;
	asleep = raise_grant(leaf, name, visit);
	if (read_file(leaf, "cgroup.freeze", &frozen, 1) < 0)
		complain(name, "cgroup.freeze");
	/* Raising wakes nobody who sleeps over the old line; freezing and thawing does. */
	if (frozen != '1' && (!asleep || !set_frozen(leaf, name, true)))
		return;
	if (set_frozen(leaf, name, false) && frozen == '1')
		visit->done->thawed++;
}

/* ---- directories -------------------------------------------------------------- */

struct entry { /* of getdents64 */
	uint64_t inode;
	int64_t next;
	unsigned short size;
	unsigned char type;
	char name[];
};

typedef void visit_directory(int directory, const char *name, struct visit *visit);

/* Calls back for every subdirectory. The buffer is the caller's: walks are nested. */
static void walk(int directory, char *buffer, size_t capacity, visit_directory *callback,
		 struct visit *visit)
{
	long n;

	while ((n = syscall(SYS_getdents64, (long)directory, buffer, (long)capacity, 0L, 0L, 0L)) > 0) {
		for (long at = 0; at < n;) {
			struct entry *entry = (struct entry *)(buffer + at);
			int fd;

			at += entry->size;
			if (entry->name[0] == '.' ||
			    (entry->type != DT_DIR && entry->type != DT_UNKNOWN))
				continue;
			fd = openat(directory, entry->name,
				    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			if (fd >= 0) {
				callback(fd, entry->name, visit);
				close(fd);
			} else if (errno != ENOTDIR && errno != ELOOP) {
				complain(entry->name, "the directory");
			}
		}
	}
	if (n < 0)
		say("cannot list a directory: ", error_text(errno), NULL);
}

static int session_rank(int session, const char *name)
{
	static char json[65536];
	ssize_t n = fgetxattr(session, XATTR_SESSION, json, sizeof(json));
	struct slice priority;

	if (n < 0) {
		if (errno != ENODATA && errno != EOPNOTSUPP)
			complain(name, XATTR_SESSION);
		return 1;
	}
	if (!json_find((struct slice){ json, (size_t)n }, "priority", &priority))
		return 1;
	return json_equals(priority, "high") ? 0 : json_equals(priority, "low") ? 2 : 1;
}

static void visit_session(int session, const char *name, struct visit *visit)
{
	static char buffer[32768] __attribute__((aligned(8)));
	int tools = openat(session, "tools", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	uint64_t used;

	if (visit->rank < 0) {
		if (read_bytes(session, "memory.current", &used))
			visit->used_bytes += used;
		else
			complain(name, "memory.current");
	}
	if (tools < 0) {
		complain(name, "tools");
		return;
	}
	if (visit->rank < 0 || session_rank(session, name) == visit->rank)
		walk(tools, buffer, sizeof(buffer), visit_leaf, visit);
	close(tools);
}

/*
 * Sessions that were adopted in place stand elsewhere: an attribute of the root for each holds
 * its directory.
 */
static void visit_adopted(int root, const char *name, struct visit *visit)
{
	static char names[65536];
	char path[4096];
	ssize_t size = flistxattr(root, names, sizeof(names)), n;

	if (size < 0) {
		complain(name, "the list of adopted cgroups");
		return;
	}
	for (const char *at = names; at < names + size; at += strlen(at) + 1) {
		int fd;

		if (strncmp(at, XATTR_ADOPTED, sizeof(XATTR_ADOPTED) - 1) != 0)
			continue;
		n = fgetxattr(root, at, path, sizeof(path) - 1);
		if (n < 0) {
			complain(name, at);
			continue;
		}
		path[n] = '\0';
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0) {
			complain(path, "the directory");
			continue;
		}
		visit_session(fd, path, visit);
		close(fd);
	}
}

static uint64_t host_budget_bytes(void)
{
	char text[512];
	ssize_t n = read_file(AT_FDCWD, "/proc/meminfo", text, sizeof(text));
	static const char label[] = "MemTotal:";
	uint64_t kib;
	size_t at = sizeof(label) - 1;

	if (n < (ssize_t)sizeof(label) || memcmp(text, label, at) != 0) {
		say("cannot read MemTotal in /proc/meminfo: no memory counts as free", NULL);
		return 0;
	}
	while (at < (size_t)n && text[at] == ' ')
		at++;
	return parse_number(text + at, (size_t)n - at, &kib) ? kib * 1024 / 100 * 95 : 0;
}

void tree_relieve(const char *root, uint64_t budget_bytes, bool all, struct relief *done)
{
	static char buffer[32768] __attribute__((aligned(8)));
	struct visit visit = { .rank = -1, .all = all, .done = done };
	uint64_t limit;

	for (int rank = -1; rank < RANKS; rank++) {
		int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (fd < 0) {
			complain(root, "the directory");
			return;
		}
		visit.rank = rank;
		walk(fd, buffer, sizeof(buffer), visit_session, &visit);
		visit_adopted(fd, root, &visit);
		if (rank < 0) {
			if (read_bytes(fd, "memory.max", &limit) && limit != NO_LIMIT)
				budget_bytes = limit;
			else if (!budget_bytes)
				budget_bytes = host_budget_bytes();
			if (visit.leaves && budget_bytes > visit.used_bytes)
				visit.share_bytes = (budget_bytes - visit.used_bytes) / visit.leaves;
		}
		close(fd);
	}
}

/* ---- epoch -------------------------------------------------------------------- */

static bool set_number(int fd, const char *name, uint64_t value)
{
	char digits[24];
	struct text text = TEXT_IN(digits);

	text_add_number(&text, value);
	return fsetxattr(fd, name, digits, text.length, 0) == 0;
}

uint64_t tree_bump_epoch(const char *root)
{
	char digits[24];
	struct timespec now;
	uint64_t epoch = 0;
	int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0) {
		complain(root, "the directory");
		return 0;
	}
	n = fgetxattr(fd, XATTR_EPOCH, digits, sizeof(digits));
	if (n > 0 && !parse_number(digits, (size_t)n, &epoch))
		say("the epoch of ", root, " was no number: it starts again", NULL);
	epoch++;
	clock_gettime(CLOCK_REALTIME, &now);
	if (!set_number(fd, XATTR_EPOCH, epoch) ||
	    !set_number(fd, XATTR_EPOCH_TIME,
			(uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec)) {
		say("cannot write the epoch to ", root, ": ", error_text(errno), NULL);
		epoch = 0;
	}
	close(fd);
	return epoch;
}
