/* SPDX-License-Identifier: Apache-2.0 */
/* What an option's value may look like. The daemon knows best; this is for where none answers:
 * a wrong value is wrong all the same, and must not run a command without the limit meant. */
#ifndef AGENTCGROUP_VALUES_H
#define AGENTCGROUP_VALUES_H

#include <stdbool.h>
#include <stdint.h>

enum kind { ANY_TEXT, SIZE, CORES, COUNT, WEIGHT, DURATION, LATENCY, ON_EXCEED, BACKGROUND };

/* "512M", "2GiB", "1.5GB" in bytes; false for anything else, and beyond 8 EiB. */
bool parse_size(const char *string, uint64_t *bytes);

/* NULL if `value` is of that kind, else what to write instead. */
const char *value_remedy(enum kind kind, const char *value);

#endif
