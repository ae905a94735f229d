/* SPDX-License-Identifier: Apache-2.0 */
#include "values.h"

#include <string.h>

#define MOST_DIGITS 30
#define MOST_BYTES ((uint64_t)INT64_MAX)
#define MOST_CORES 65536
#define MOST_SECONDS 1000000000

/* A decimal number; `fraction` in billionths. `whole` is cut at 2^63 - 1. */
struct number {
	uint64_t whole;
	uint64_t fraction;
};

static bool is_digit(char byte)
{
	return byte >= '0' && byte <= '9';
}

static const char *skip_spaces(const char *at)
{
	while (*at == ' ' || *at == '\t')
		at++;
	return at;
}

/* Past the number, or NULL where there is none. */
static const char *read_number(const char *at, struct number *number)
{
	uint64_t scale = 1000000000;
	int digits = 0;

	*number = (struct number){ 0, 0 };
	for (; is_digit(*at) && digits <= MOST_DIGITS; at++, digits++) {
		uint64_t digit = (uint64_t)(*at - '0');

		number->whole = number->whole > (MOST_BYTES - digit) / 10 ?
					MOST_BYTES : number->whole * 10 + digit;
	}
	if (!digits || digits > MOST_DIGITS)
		return NULL;
	if (*at != '.')
		return at;
	for (at++, digits = 0; is_digit(*at) && digits <= MOST_DIGITS; at++, digits++)
		number->fraction += (uint64_t)(*at - '0') * (scale /= 10);
	return digits && digits <= MOST_DIGITS ? at : NULL;
}

static bool same_word(const char *at, size_t size, const char *word)
{
	size_t i;

	for (i = 0; i < size && word[i]; i++)
		if ((at[i] | 0x20) != word[i])
			return false;
	return i == size && !word[i];
}

static size_t letters(const char *at)
{
	size_t size = 0;

	while ((at[size] | 0x20) >= 'a' && (at[size] | 0x20) <= 'z')
		size++;
	return size;
}

/* The word behind a number, with nothing after it (it may be empty); NULL otherwise. */
static const char *read_quantity(const char *string, struct number *number, size_t *size)
{
	const char *at = read_number(skip_spaces(string), number);

	if (!at)
		return NULL;
	at = skip_spaces(at);
	*size = letters(at);
	return *skip_spaces(at + *size) ? NULL : at;
}

bool parse_size(const char *string, uint64_t *bytes)
{
	static const struct {
		const char *word;
		uint64_t bytes;
	} units[] = {
		{ "", 1 }, { "b", 1 },
		{ "k", 1ULL << 10 }, { "m", 1ULL << 20 }, { "g", 1ULL << 30 }, { "t", 1ULL << 40 },
		{ "kib", 1ULL << 10 }, { "mib", 1ULL << 20 }, { "gib", 1ULL << 30 }, { "tib", 1ULL << 40 },
		{ "kb", 1000 }, { "mb", 1000000 }, { "gb", 1000000000 }, { "tb", 1000000000000 },
	};
	struct number number;
	size_t size;
	const char *at = read_quantity(string, &number, &size);

	if (!at)
		return false;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		uint64_t unit = units[i].bytes;

		if (!same_word(at, size, units[i].word))
			continue;
		/* A billionth of the largest unit still fits 64 bits beside its fraction. */
		if (number.whole > (MOST_BYTES - unit) / unit)
			return false;
		*bytes = number.whole * unit + (uint64_t)((double)number.fraction * (double)unit / 1e9);
		return true;
	}
	return false;
}

static bool is_cores(const char *string)
{
	struct number number;
	const char *at = read_number(skip_spaces(string), &number);

	if (!at || *skip_spaces(at) || !(number.whole || number.fraction))
		return false;
	return number.whole < MOST_CORES || (number.whole == MOST_CORES && !number.fraction);
}

static bool is_duration(const char *string)
{
	static const struct {
		const char *word;
		double seconds;
	} units[] = { { "", 1 }, { "s", 1 }, { "m", 60 }, { "h", 3600 }, { "ms", 1e-3 } };
	struct number number;
	size_t size;
	const char *at = read_quantity(string, &number, &size);

	if (!at)
		return false;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		double seconds = ((double)number.whole + (double)number.fraction / 1e9) * units[i].seconds;

		if (strlen(units[i].word) == size && !memcmp(units[i].word, at, size))
			return seconds > 0 && seconds <= MOST_SECONDS;
	}
	return false;
}

static const char *count_remedy(const char *string, uint64_t most, const char *too_many)
{
	bool negative = string[0] == '-';
	struct number number;
	const char *end = read_number(string + negative, &number);

	if (!end || *end || strchr(string, '.'))
		return "must be a valid integer";
	if (negative || number.whole < 1)
		return "must be greater than or equal to 1";
	return number.whole > most ? too_many : NULL;
}

static bool is_one_of(const char *value, const char *const *words)
{
	for (; *words; words++)
		if (!strcmp(*words, value))
			return true;
	return false;
}

const char *value_remedy(enum kind kind, const char *value)
{
	static const char *const latencies[] = { "interactive", "standard", "batch", NULL };
	static const char *const exceeds[] = { "throttle", "wait", "kill", NULL };
	static const char *const backgrounds[] = { "kill", "keep", NULL };
	uint64_t bytes;

	switch (kind) {
	case SIZE:
		return parse_size(value, &bytes) ? NULL :
			"write bytes as an integer or a size such as 512M, 2G, 2GiB or 2GB";
	case CORES:
		return is_cores(value) ? NULL :
			"write cores as a number above 0, such as 0.5 or 2";
	case COUNT:
		return count_remedy(value, 4194304, "must be less than or equal to 4194304");
	case WEIGHT:
		return count_remedy(value, 10000, "must be less than or equal to 10000");
	case DURATION:
		return is_duration(value) ? NULL :
			"write seconds as a number above 0, or a duration such as 250ms, 90s, 5m or 2h";
	case LATENCY:
		return is_one_of(value, latencies) ? NULL :
			"must be 'interactive', 'standard' or 'batch'";
	case ON_EXCEED:
		return is_one_of(value, exceeds) ? NULL : "must be 'throttle', 'wait' or 'kill'";
	case BACKGROUND:
		return is_one_of(value, backgrounds) ? NULL : "must be 'kill' or 'keep'";
	default:
		return NULL;
	}
}
