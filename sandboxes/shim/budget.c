/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "budget.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "text.h"

#define CPUS "AGENTCGROUP_CPUS="
#define MEMORY "AGENTCGROUP_MEMORY="

extern char **environ;

/* Cores this process may run on. */
static uint64_t usable_cpus(void)
{
	unsigned long mask[128]; /* 8192 of them, as many as Linux knows */
	long bytes = syscall(SYS_sched_getaffinity, 0L, (long)sizeof(mask), (long)mask);
	uint64_t count = 0;

	for (long i = 0; i < bytes / (long)sizeof(mask[0]); i++)
		count += (uint64_t)__builtin_popcountl(mask[i]);
	return count;
}

/* The whole part of a JSON number; false for null. */
static bool find_whole(struct slice answer, const char *path, uint64_t *number)
{
	struct slice value;

	return json_find(answer, path, &value) && parse_number(value.data, value.size, number);
}

static void write_entry(char *entry, size_t capacity, const char *name, uint64_t number)
{
	struct text text = { entry, 0, capacity, false };

	text_add(&text, name);
	text_add_number(&text, number);
	text_string(&text);
}

void budget_read(struct slice answer, struct budget *budget)
{
	bool limited;
	uint64_t number;

	memset(budget, 0, sizeof(*budget));
	if (find_whole(answer, "result.limits.memory_max_bytes", &number))
		write_entry(budget->memory, sizeof(budget->memory), MEMORY, number);
	limited = find_whole(answer, "result.limits.cpu_max_cores", &number);
	if (!limited && getenv("AGENTCGROUP_CPUS"))
		return; /* the session's share, from who started the agent */
	if (!limited)
		number = usable_cpus();
	write_entry(budget->cpus, sizeof(budget->cpus), CPUS, number ? number : 1);
}

size_t budget_room(void)
{
	size_t count = 0;

	while (environ[count])
		count++;
	return count + 3;
}

/* Adds the entry, in the place of the one with its name. */
static void put(const char *entry, char **room)
{
	const char *end = strchr(entry, '=');
	size_t count = 0;

	if (!end)
		return;
	for (char **old = environ; *old; old++)
		if (strncmp(*old, entry, (size_t)(end - entry) + 1))
			room[count++] = *old;
	room[count++] = (char *)entry;
	room[count] = NULL;
	environ = room;
}

void budget_apply(const struct budget *budget, char **room)
{
	put(budget->cpus, room);
	put(budget->memory, room);
}
