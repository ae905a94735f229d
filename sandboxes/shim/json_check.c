/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the tests: the programs' JSON on lines from stdin, built with sanitizers.
 *
 *   json_check find            lines PATH<tab>DOCUMENT -> the value as written, or "-"
 *   json_check text            lines with one JSON string -> its text in hex, or "-"
 *   json_check string          lines with hex -> the bytes as a JSON string
 *   json_check fuzz SEED COUNT every line, mutated COUNT times: must only not crash
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

static void show_hex(const char *data, size_t size)
{
	for (size_t i = 0; i < size; i++)
		printf("%02x", (unsigned char)data[i]);
	putchar('\n');
}

static void find(struct slice line)
{
	char *tab = memchr(line.data, '\t', line.size);
	struct slice document, value;

	if (!tab)
		exit(2);
	*tab = 0;
	document = (struct slice){ tab + 1, line.size - (size_t)(tab + 1 - line.data) };
	if (json_find(document, line.data, &value))
		printf("%.*s\n", (int)value.size, value.data);
	else
		puts("-");
}

static void text(struct slice line)
{
	static char out[1 << 16];
	size_t size;

	if (json_text(line, out, sizeof(out), &size))
		show_hex(out, size);
	else
		puts("-");
}

static void string(struct slice line)
{
	static char bytes[1 << 16], out[1 << 19];
	struct text written = TEXT_IN(out);
	size_t size = 0;

	for (; 2 * size + 1 < line.size; size++) {
		unsigned int byte;

		if (sscanf(line.data + 2 * size, "%2x", &byte) != 1)
			exit(2);
		bytes[size] = (char)byte;
	}
	json_add_string(&written, bytes, size);
	printf("%.*s\n", (int)written.length, written.data);
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static size_t mutate(char *data, size_t size, uint64_t *state)
{
	static const char interesting[] = "{}[]\",:\\u0d8/ \n\x80\xff";

	for (uint64_t i = next_random(state) % 6 + 1; i > 0 && size > 0; i--) {
		size_t at = next_random(state) % size;

		switch (next_random(state) % 4) {
		case 0:
			data[at] = interesting[next_random(state) % (sizeof(interesting) - 1)];
			break;
		case 1:
			data[at] = (char)next_random(state);
			break;
		case 2:
			size = at;
			break;
		default:
			memmove(data + at, data + at + 1, --size - at);
		}
	}
	return size;
}

static void fuzz(struct slice line, uint64_t *state, long count)
{
	static const char *paths[] = { "result.call", "result.outcome.message", "error.data.kind",
				       "id", "a.b.c", "error.message" };

	while (count-- > 0) {
		/* Of exactly its size, so that the sanitizer sees one byte too many. */
		char *copy = malloc(line.size), *data, out[40];
		size_t size;

		memcpy(copy, line.data, line.size);
		size = mutate(copy, line.size, state);
		data = malloc(size ? size : 1);
		memcpy(data, copy, size);
		for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
			struct slice value;

			if (!json_find((struct slice){ data, size }, paths[i], &value))
				continue;
			if (value.data < data || value.data + value.size > data + size)
				abort();
			json_text(value, out, sizeof(out), NULL);
			json_equals(value, "refused");
		}
		free(copy);
		free(data);
	}
}

int main(int argc, char **argv)
{
	char *line = NULL;
	size_t capacity = 0;
	ssize_t n;
	uint64_t state = argc == 4 ? strtoull(argv[2], NULL, 10) * 2 + 1 : 1;

	if (argc < 2)
		return 2;
	while ((n = getline(&line, &capacity, stdin)) > 0) {
		struct slice slice = { line, (size_t)n - (line[n - 1] == '\n') };

		if (!strcmp(argv[1], "find"))
			find(slice);
		else if (!strcmp(argv[1], "text"))
			text(slice);
		else if (!strcmp(argv[1], "string"))
			string(slice);
		else if (!strcmp(argv[1], "fuzz") && argc == 4)
			fuzz(slice, &state, strtol(argv[3], NULL, 10));
		else
			return 2;
	}
	free(line);
	return 0;
}
