/* SPDX-License-Identifier: Apache-2.0 */
/* Memory and strings for mini.c: what the C library's <string.h> is used for here. */
#include <stddef.h>
#include <string.h>

void *memmove(void *to, const void *from, size_t size)
{
	char *t = to;
	const char *f = from;

	if (t < f)
		for (size_t i = 0; i < size; i++)
			t[i] = f[i];
	else
		while (size--)
			t[size] = f[size];
	return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
	return memmove(to, from, size);
}

void *memset(void *to, int byte, size_t size)
{
	char *t = to;

	for (size_t i = 0; i < size; i++)
		t[i] = (char)byte;
	return to;
}

int memcmp(const void *left, const void *right, size_t size)
{
	const unsigned char *l = left, *r = right;

	for (size_t i = 0; i < size; i++)
		if (l[i] != r[i])
			return l[i] - r[i];
	return 0;
}

void *memchr(const void *data, int byte, size_t size)
{
	const unsigned char *d = data;

	for (size_t i = 0; i < size; i++)
		if (d[i] == (unsigned char)byte)
			return (void *)(d + i);
	return NULL;
}

size_t strlen(const char *text)
{
	size_t n = 0;

	while (text[n])
		n++;
	return n;
}

int strncmp(const char *left, const char *right, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (left[i] != right[i] || !left[i])
			return (unsigned char)left[i] - (unsigned char)right[i];
	return 0;
}

int strcmp(const char *left, const char *right)
{
	return strncmp(left, right, (size_t)-1);
}

char *strchr(const char *text, int byte)
{
	for (;; text++) {
		if (*text == (char)byte)
			return (char *)text;
		if (!*text)
			return NULL;
	}
}

char *strrchr(const char *text, int byte)
{
	const char *found = NULL;

	for (;; text++) {
		if (*text == (char)byte)
			found = text;
		if (!*text)
			return (char *)found;
	}
}
