/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a tool call costs at the very least: the same work on cgroups, in C, alone.
 *
 *   leaf_life life CGROUP [N]         a whole leaf: mkdir, limits, xattr, fork, place,
 *                                     kill, read the figures, rmdir
 *   leaf_life bare CGROUP [N]         mkdir, one write, rmdir
 *   leaf_life spawn N [COMMAND...]    fork, exec and wait (default /bin/true)
 *
 * CGROUP is a cgroup2 directory that this program may change, with the controllers it
 * is to measure enabled for its children. Prints one JSON object; times are in ns.
 * Files that the kernel does not have are left out; the counts say how many took part.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "bench.h"

#define DEFAULT_ITERATIONS 200

enum phase { CREATE, LIMITS, MARK, FORK, PLACE, KILL, READ, REMOVE, TOTAL, PHASES };

static const char *const phase_names[PHASES] = {
	"create", "limits", "mark", "fork", "place", "kill", "read", "remove", "total",
};

static const struct {
	const char *file;
	const char *value;
} limits[] = {
	{ "memory.high", "268435456" }, { "memory.max", "536870912" }, { "memory.swap.max", "0" },
	{ "memory.oom.group", "1" },    { "pids.max", "512" },         { "cpu.weight", "200" },
	{ "cpu.max", "200000 100000" }, { "io.weight", "100" },
};

static const char *const figures[] = {
	"memory.peak", "memory.current", "memory.events", "memory.events.local", "memory.stat",
	"memory.swap.current", "cpu.stat", "pids.peak", "pids.events", "io.stat", "cgroup.events",
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static long *samples[PHASES];
static int limits_written, figures_read;

/* False if the kernel has no such file. */
static int write_file(int directory, const char *file, const char *value)
{
	int fd = openat(directory, file, O_WRONLY | O_CLOEXEC);

	if (fd < 0) {
		if (errno == ENOENT)
			return 0;
		die(file);
	}
	if (write(fd, value, strlen(value)) < 0)
		die(file);
	close(fd);
	return 1;
}

static int read_file(int directory, const char *file, char *out, size_t capacity)
{
	int fd = openat(directory, file, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0) {
		if (errno == ENOENT)
			return 0;
		die(file);
	}
	n = read(fd, out, capacity - 1);
	if (n < 0)
		die(file);
	out[n] = 0;
	close(fd);
	return 1;
}

static void remove_leaf(int parent, const char *name)
{
	while (unlinkat(parent, name, AT_REMOVEDIR) < 0)
		if (errno != EBUSY) /* the last task is still on its way out */
			die("remove the leaf");
}

static pid_t fork_waiting(int *release)
{
	int fds[2];
	char byte;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		die("make a pipe");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0) {
		close(fds[1]);
		_exit(read(fds[0], &byte, 1) == 1 ? 0 : 1);
	}
	close(fds[0]);
	*release = fds[1];
	return pid;
}

static void life(int parent, int i)
{
	static const char record[] = "{\"key\":\"0123456789abcdef0123456789abcdef\"}";
	char name[32], text[16384], digits[16];
	long at[PHASES];
	int leaf, release;
	pid_t pid;

	snprintf(name, sizeof(name), "life-%d-%d", (int)getpid(), i);
	at[CREATE] = now_ns();
	if (mkdirat(parent, name, 0755) < 0)
		die("make the leaf");
	leaf = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (leaf < 0)
		die("open the leaf");
	at[LIMITS] = now_ns();
	limits_written = 0;
	for (size_t l = 0; l < COUNT(limits); l++)
		limits_written += write_file(leaf, limits[l].file, limits[l].value);
	at[MARK] = now_ns();
	if (fsetxattr(leaf, "trusted.agentcgroup.bench", record, sizeof(record) - 1, 0) < 0)
		die("set an attribute");
	at[FORK] = now_ns();
	pid = fork_waiting(&release);
	at[PLACE] = now_ns();
	snprintf(digits, sizeof(digits), "%d", (int)pid);
	if (!write_file(leaf, "cgroup.procs", digits))
		die("place a process");
	at[KILL] = now_ns();
	if (!write_file(leaf, "cgroup.kill", "1"))
		die("kill the leaf");
	waitpid(pid, NULL, 0);
	close(release);
	at[READ] = now_ns();
	figures_read = 0;
	for (size_t f = 0; f < COUNT(figures); f++)
		figures_read += read_file(leaf, figures[f], text, sizeof(text));
	at[REMOVE] = now_ns();
	close(leaf);
	remove_leaf(parent, name);
	at[TOTAL] = now_ns();
	for (int phase = 0; phase < TOTAL; phase++)
		samples[phase][i] = at[phase + 1] - at[phase];
	samples[TOTAL][i] = at[TOTAL] - at[CREATE];
}

static void bare(int parent, int i)
{
	char name[32];
	long begun = now_ns();
	int leaf;

	snprintf(name, sizeof(name), "bare-%d-%d", (int)getpid(), i);
	if (mkdirat(parent, name, 0755) < 0)
		die("make the leaf");
	leaf = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (leaf < 0)
		die("open the leaf");
	write_file(leaf, "memory.high", "268435456");
	close(leaf);
	remove_leaf(parent, name);
	samples[TOTAL][i] = now_ns() - begun;
}

static void spawn(char **command, int i)
{
	long begun = now_ns();
	pid_t pid = vfork();
	int status;

	if (pid < 0)
		die("fork");
	if (pid == 0) {
		execvp(command[0], command);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) < 0)
		die("wait");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127) {
		fprintf(stderr, "leaf_life: cannot run %s\n", command[0]);
		exit(1);
	}
	samples[TOTAL][i] = now_ns() - begun;
}

static int compare(const void *left, const void *right)
{
	long l = *(const long *)left, r = *(const long *)right;

	return (l > r) - (l < r);
}

static void report_phase(enum phase phase, int n)
{
	long *sorted = samples[phase];

	qsort(sorted, (size_t)n, sizeof(*sorted), compare);
	printf("\"%s\":{\"min_ns\":%ld,\"p50_ns\":%ld,\"p95_ns\":%ld,\"max_ns\":%ld}",
	       phase_names[phase], sorted[0], sorted[n / 2], sorted[(long)n * 95 / 100],
	       sorted[n - 1]);
}

static void report(const char *what, int n)
{
	int whole = !strcmp(what, "life");

	printf("{\"what\":\"%s\",\"iterations\":%d,", what, n);
	if (whole)
		printf("\"limits_written\":%d,\"figures_read\":%d,", limits_written, figures_read);
	for (int phase = whole ? 0 : TOTAL; phase < PHASES; phase++) {
		report_phase(phase, n);
		putchar(phase == TOTAL ? '}' : ',');
	}
	putchar('\n');
}

static int usage(void)
{
	fputs("usage: leaf_life life CGROUP [N] | bare CGROUP [N] | spawn N [COMMAND...]\n", stderr);
	return 2;
}

int main(int argc, char **argv)
{
	static char *standard[] = { (char *)"/bin/true", NULL };
	const char *what = argc > 1 ? argv[1] : "";
	int spawns = !strcmp(what, "spawn"), parent = -1, n = DEFAULT_ITERATIONS;
	char **command = standard;

	if (!spawns && strcmp(what, "life") != 0 && strcmp(what, "bare") != 0)
		return usage();
	if (argc < 3)
		return usage();
	if (spawns || argc > 3)
		n = atoi(argv[spawns ? 2 : 3]);
	if (n < 1)
		return usage();
	if (spawns && argc > 3)
		command = argv + 3;
	if (!spawns) {
		parent = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (parent < 0)
			die(argv[2]);
	}
	for (int phase = 0; phase < PHASES; phase++) {
		samples[phase] = calloc((size_t)n, sizeof(long));
		if (!samples[phase])
			die("get memory");
	}
	for (int i = 0; i < n; i++) {
		if (spawns)
			spawn(command, i);
		else if (!strcmp(what, "life"))
			life(parent, i);
		else
			bare(parent, i);
	}
	report(what, n);
	return 0;
}
