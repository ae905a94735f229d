/* SPDX-License-Identifier: Apache-2.0 */
#include "json.h"

#include <string.h>

#define MAX_DEPTH 64

/* Length of the well-formed UTF-8 sequence at data (RFC 3629), or 0. */
static size_t utf8_size(const unsigned char *data, size_t size)
{
	unsigned int first = data[0], low = 0x80, high = 0xbf;
	size_t need;

	if (first < 0x80)
		return 1;
	if (first >= 0xc2 && first <= 0xdf)
		need = 2;
	else if (first >= 0xe0 && first <= 0xef)
		need = 3;
	else if (first >= 0xf0 && first <= 0xf4)
		need = 4;
	else
		return 0;
	if (first == 0xe0)
		low = 0xa0;
	else if (first == 0xed)
		high = 0x9f;
	else if (first == 0xf0)
		low = 0x90;
	else if (first == 0xf4)
		high = 0x8f;
	if (size < need || data[1] < low || data[1] > high)
		return 0;
	for (size_t i = 2; i < need; i++)
		if ((data[i] & 0xc0) != 0x80)
			return 0;
	return need;
}

void json_add_string(struct text *out, const char *data, size_t size)
{
	static const char hex[] = "0123456789abcdef";
	size_t i = 0;

	text_add(out, "\"");
	while (i < size) {
		unsigned char byte = (unsigned char)data[i];
		size_t step = utf8_size((const unsigned char *)data + i, size - i);

		if (byte == '"' || byte == '\\') {
			text_add(out, "\\");
			text_add_bytes(out, data + i, 1);
		} else if (byte < 0x20 || byte == 0x7f) {
			char escape[6] = { '\\', 'u', '0', '0', hex[byte >> 4], hex[byte & 15] };

			text_add_bytes(out, escape, sizeof(escape));
		} else if (step) {
			text_add_bytes(out, data + i, step);
		} else {
			text_add(out, "\\ufffd");
		}
		i += step ? step : 1;
	}
	text_add(out, "\"");
}

static size_t skip_space(struct slice s, size_t at)
{
	while (at < s.size && (s.data[at] == ' ' || s.data[at] == '\t' || s.data[at] == '\r' ||
			       s.data[at] == '\n'))
		at++;
	return at;
}

/* Index after the string that starts at `at`, or 0. */
static size_t skip_string(struct slice s, size_t at)
{
	for (at++; at < s.size; at++) {
		if (s.data[at] == '"')
			return at + 1;
		if (s.data[at] == '\\')
			at++;
	}
	return 0;
}

static size_t skip_scalar(struct slice s, size_t at)
{
	size_t start = at;

	while (at < s.size && !memchr(",:]}[{\" \t\r\n", s.data[at], 11))
		at++;
	return at > start ? at : 0;
}

/* Index after the value that starts at `at`, or 0 if it is damaged or too deep. */
static size_t skip_value(struct slice s, size_t at)
{
	uint64_t objects = 0; /* bit d: the container at depth d is an object */
	unsigned int depth = 0;

	do {
		char byte;

		at = skip_space(s, at);
		if (at >= s.size)
			return 0;
		byte = s.data[at];
		if (byte == '{' || byte == '[') {
			if (depth == MAX_DEPTH)
				return 0;
			objects = objects << 1 | (byte == '{');
			depth++;
			at++;
		} else if (byte == '}' || byte == ']') {
			if (depth == 0 || (objects & 1) != (byte == '}'))
				return 0;
			objects >>= 1;
			depth--;
			at++;
		} else if (byte == '"') {
			at = skip_string(s, at);
		} else if (byte == ',' || byte == ':') {
			if (depth == 0)
				return 0;
			at++;
		} else {
			at = skip_scalar(s, at);
		}
		if (at == 0)
			return 0;
	} while (depth > 0);
	return at;
}

/* The value of one key of the object; the first one if a key is there twice. */
static bool find_key(struct slice s, const char *key, size_t key_size, struct slice *value)
{
	size_t at = skip_space(s, 0);

	if (at >= s.size || s.data[at] != '{')
		return false;
	for (at = skip_space(s, at + 1); at < s.size && s.data[at] == '"';) {
		size_t name = at + 1, name_end, end;

		at = skip_string(s, at);
		if (at == 0)
			return false;
		name_end = at - 1;
		at = skip_space(s, at);
		if (at >= s.size || s.data[at] != ':')
			return false;
		at = skip_space(s, at + 1);
		end = skip_value(s, at);
		if (end == 0)
			return false;
		if (name_end - name == key_size && !memcmp(s.data + name, key, key_size)) {
			*value = (struct slice){ s.data + at, end - at };
			return true;
		}
		at = skip_space(s, end);
		if (at >= s.size || s.data[at] != ',')
			return false;
		at = skip_space(s, at + 1);
	}
	return false;
}

bool json_find(struct slice document, const char *path, struct slice *value)
{
	struct slice at = document;

	for (;;) {
		const char *dot = strchr(path, '.');
		size_t size = dot ? (size_t)(dot - path) : strlen(path);

		if (!find_key(at, path, size, &at))
			return false;
		if (!dot)
			break;
		path = dot + 1;
	}
	if (at.size == 4 && !memcmp(at.data, "null", 4))
		return false;
	*value = at;
	return true;
}

/* Four hexadecimal digits, or -1. */
static int hex4(const char *data, size_t size)
{
	int value = 0;

	if (size < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		int c = data[i], digit;

		if (c >= '0' && c <= '9')
			digit = c - '0';
		else if ((c | 32) >= 'a' && (c | 32) <= 'f')
			digit = (c | 32) - 'a' + 10;
		else
			return -1;
		value = value << 4 | digit;
	}
	return value;
}

static size_t put_utf8(char out[4], unsigned int point)
{
	if (point < 0x80) {
		out[0] = (char)point;
		return 1;
	}
	if (point < 0x800) {
		out[0] = (char)(0xc0 | point >> 6);
		out[1] = (char)(0x80 | (point & 63));
		return 2;
	}
	if (point < 0x10000) {
		out[0] = (char)(0xe0 | point >> 12);
		out[1] = (char)(0x80 | (point >> 6 & 63));
		out[2] = (char)(0x80 | (point & 63));
		return 3;
	}
	out[0] = (char)(0xf0 | point >> 18);
	out[1] = (char)(0x80 | (point >> 12 & 63));
	out[2] = (char)(0x80 | (point >> 6 & 63));
	out[3] = (char)(0x80 | (point & 63));
	return 4;
}

/* Decodes the escape after a backslash at `at`; returns bytes read, 0 if damaged. */
static size_t unescape(struct slice s, size_t at, char out[4], size_t *out_size)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	size_t left = s.size - at;
	const char *known;
	int point, low;

	*out_size = 1;
	if (left == 0)
		return 0;
	if (s.data[at] != 'u') {
		known = s.data[at] ? strchr(from, s.data[at]) : NULL;
		out[0] = known ? to[known - from] : 0;
		return known ? 1 : 0;
	}
	point = hex4(s.data + at + 1, left - 1);
	if (point < 0)
		return 0;
	if (point >= 0xd800 && point <= 0xdbff && left >= 7 && s.data[at + 5] == '\\' &&
	    s.data[at + 6] == 'u') {
		low = hex4(s.data + at + 7, left - 7);
		if (low >= 0xdc00 && low <= 0xdfff) {
			*out_size = put_utf8(out, 0x10000U + ((unsigned int)(point - 0xd800) << 10) +
							  (unsigned int)(low - 0xdc00));
			return 11;
		}
	}
	if (point >= 0xd800 && point <= 0xdfff)
		point = 0xfffd;
	*out_size = put_utf8(out, (unsigned int)point);
	return 5;
}

bool json_text(struct slice value, char *out, size_t capacity, size_t *size)
{
	size_t used = 0;

	if (value.size < 2 || value.data[0] != '"' || value.data[value.size - 1] != '"')
		return false;
	value = (struct slice){ value.data + 1, value.size - 2 };
	for (size_t at = 0; at < value.size;) {
		char bytes[4] = { value.data[at] };
		size_t count = 1;

		if (value.data[at++] == '\\') {
			size_t step = unescape(value, at, bytes, &count);

			if (step == 0)
				return false;
			at += step;
		}
		if (used + count >= capacity)
			break;
		memcpy(out + used, bytes, count);
		used += count;
	}
	out[used] = 0;
	if (size)
		*size = used;
	return true;
}

bool json_equals(struct slice value, const char *string)
{
	char text[64];
	size_t size;

	return json_text(value, text, sizeof(text), &size) && size == strlen(string) &&
	       !memcmp(text, string, size);
}
