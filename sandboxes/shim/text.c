/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "text.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

const char *say_prefix = "agentcgroup: ";

void text_add_bytes(struct text *text, const char *data, size_t size)
{
	if (text->full || size > text->capacity - text->length) {
		text->full = true;
		return;
	}
	memcpy(text->data + text->length, data, size);
	text->length += size;
}

void text_add(struct text *text, const char *string)
{
	text_add_bytes(text, string, strlen(string));
}

void text_add_number(struct text *text, uint64_t number)
{
	char digits[20];
	size_t at = sizeof(digits);

	do
		digits[--at] = (char)('0' + number % 10);
	while (number /= 10);
	text_add_bytes(text, digits + at, sizeof(digits) - at);
}

const char *text_string(struct text *text)
{
	if (text->length == text->capacity)
		text->length--;
	text->data[text->length] = 0;
	return text->data;
}

bool parse_number(const char *data, size_t size, uint64_t *number)
{
	uint64_t value = 0;
	size_t i;

	for (i = 0; i < size && data[i] >= '0' && data[i] <= '9'; i++) {
		unsigned int digit = (unsigned int)(data[i] - '0');

		if (value > (UINT64_MAX - digit) / 10)
			return false;
		value = value * 10 + digit;
	}
	*number = value;
	return i > 0;
}

bool parse_whole_number(const char *string, uint64_t *number)
{
	size_t size = 0;

	for (; string[size]; size++)
		if (string[size] < '0' || string[size] > '9')
			return false;
	return parse_number(string, size, number);
}

bool parse_seconds(const char *string, int64_t *milliseconds)
{
	int64_t value = 0, scale = 1000;
	bool fraction = false, digits = false;

	for (; *string; string++) {
		if (*string == '.' && !fraction) {
			fraction = true;
		} else if (*string >= '0' && *string <= '9') {
			digits = true;
			if (fraction)
				value += (*string - '0') * (scale /= 10);
			else if ((value = value * 10 + (*string - '0') * 1000) > 1000000000000)
				return false;
		} else {
			return false;
		}
	}
	*milliseconds = value;
	return digits;
}

int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

const char *error_text(int error)
{
	static const struct {
		int error;
		const char *text;
	} known[] = {
		{ EPERM, "operation not permitted" },
		{ ENOENT, "no such file or directory" },
		{ EIO, "input/output error" },
		{ ENXIO, "no such device or address" },
		{ E2BIG, "argument list too long" },
		{ ENOEXEC, "exec format error" },
		{ EBADF, "bad file descriptor" },
		{ EAGAIN, "resource temporarily unavailable" },
		{ ENOMEM, "out of memory" },
		{ EACCES, "permission denied" },
		{ EBUSY, "device or resource busy" },
		{ ENOTDIR, "not a directory" },
		{ EISDIR, "is a directory" },
		{ EINVAL, "invalid argument" },
		{ EMFILE, "too many open files" },
		{ ENOSPC, "no space left on device" },
		{ EROFS, "read-only file system" },
		{ EPIPE, "broken pipe" },
		{ ENAMETOOLONG, "name too long" },
		{ ENODATA, "no such attribute" },
		{ ELOOP, "too many symbolic links" },
		{ EOPNOTSUPP, "not supported" },
		{ ECONNREFUSED, "connection refused" },
		{ ECONNRESET, "connection reset" },
		{ ETXTBSY, "text file busy" },
	};
	static char other[32];
	struct text text = TEXT_IN(other);

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i].error == error)
			return known[i].text;
	text_add(&text, "error ");
	text_add_number(&text, (uint64_t)error);
	return text_string(&text);
}

static void write_all(const char *data, size_t size)
{
	while (size > 0) {
		ssize_t n = write(STDERR_FILENO, data, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return; /* nobody reads stderr: there is no other place to say it */
		data += n;
		size -= (size_t)n;
	}
}

void say(const char *part, ...)
{
	char line[2048];
	struct text text = TEXT_IN(line);
	va_list list;

	text.capacity--;
	text_add(&text, say_prefix);
	va_start(list, part);
	for (; part; part = va_arg(list, const char *)) {
		size_t size = strlen(part), room = text.capacity - text.length;

		text_add_bytes(&text, part, size < room ? size : room);
	}
	va_end(list);
	line[text.length++] = '\n';
	write_all(line, text.length);
}

/* Bytes of one control character (C0, DEL, C1 in UTF-8) at data, or 0. */
static size_t control_size(const unsigned char *data, size_t size)
{
	if ((data[0] < 0x20 && data[0] != '\t') || data[0] == 0x7f)
		return 1;
	return size > 1 && data[0] == 0xc2 && data[1] >= 0x80 && data[1] <= 0x9f ? 2 : 0;
}

void say_foreign(const char *data, size_t size)
{
	static char page[16384];

	while (size > 0 && (data[size - 1] == '\n' || data[size - 1] == ' '))
		size--;
	while (size > 0) {
		struct text out = TEXT_IN(page);
		size_t i = 0;

		text_add(&out, say_prefix);
		while (i < size && data[i] != '\n' && out.length < sizeof(page) - 8) {
			size_t control = control_size((const unsigned char *)data + i, size - i);

			text_add_bytes(&out, control ? "?" : data + i, 1);
			i += control ? control : 1;
		}
		text_add(&out, "\n");
		write_all(page, out.length);
		if (i < size && data[i] == '\n')
			i++;
		data += i;
		size -= i;
	}
}
