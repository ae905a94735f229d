/* SPDX-License-Identifier: Apache-2.0 */
/* Text in fixed buffers, numbers, time and lines on stderr. No allocation anywhere. */
#ifndef AGENTCGROUP_TEXT_H
#define AGENTCGROUP_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* `full` stays set once something did not fit; the data is then incomplete. */
struct text {
	char *data;
	size_t length;
	size_t capacity;
	bool full;
};

#define TEXT_IN(array) { (array), 0, sizeof(array), false }

void text_add_bytes(struct text *text, const char *data, size_t size);
void text_add(struct text *text, const char *string);
void text_add_number(struct text *text, uint64_t number);

/* The data as a C string; what does not fit before the final zero is cut. */
const char *text_string(struct text *text);

/* Reads a whole decimal number at the beginning; false if there is none or it is too big. */
bool parse_number(const char *data, size_t size, uint64_t *number);

/* The same for a string that holds nothing else. */
bool parse_whole_number(const char *string, uint64_t *number);

/* "2" or "0.25" as milliseconds; false for anything else. */
bool parse_seconds(const char *string, int64_t *milliseconds);

int64_t now_ms(void);

/* Name of an errno value in plain words. */
const char *error_text(int error);

extern const char *say_prefix;

/* One line on stderr made of all the parts (end with NULL), after the prefix. */
void say(const char *part, ...) __attribute__((sentinel));

/* Foreign text on stderr: each line prefixed, control characters replaced. */
void say_foreign(const char *data, size_t size);

#endif
