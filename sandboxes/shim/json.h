/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The JSON that one line of the protocol needs: write strings, find values by path.
 *
 * Reading never copies and never recurses; nesting is bounded. What comes in is
 * foreign bytes: every function may be given anything.
 */
#ifndef AGENTCGROUP_JSON_H
#define AGENTCGROUP_JSON_H

#include "text.h"

/* A value inside somebody else's buffer, as written there (strings with quotes). */
struct slice {
	const char *data;
	size_t size;
};

/* Adds bytes as a JSON string; bytes that are not UTF-8 become U+FFFD. */
void json_add_string(struct text *out, const char *data, size_t size);

/* Looks up "a.b.c" in one JSON document; false if absent, null or damaged. */
bool json_find(struct slice document, const char *path, struct slice *value);

/* A string's text, unescaped and cut to what fits, zero at the end; false if no string. */
bool json_text(struct slice value, char *out, size_t capacity, size_t *size);

bool json_equals(struct slice value, const char *string);

#endif
