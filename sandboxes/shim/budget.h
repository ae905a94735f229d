/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a command may use, told to it in its environment: AGENTCGROUP_CPUS (whole cores, at
 * least 1) and AGENTCGROUP_MEMORY (bytes). Entries as environ has them; empty: not known, and
 * what was inherited stays. Fixed size: it travels through the pipe that lets the child go.
 */
#ifndef AGENTCGROUP_BUDGET_H
#define AGENTCGROUP_BUDGET_H

#include "json.h"

struct budget {
	char cpus[32];
	char memory[48];
};

/* From the answer to tool.begin; a zeroed budget says nothing. */
void budget_read(struct slice answer, struct budget *budget);

/* Makes it part of the environment, which then lives in `room` of budget_room() entries. */
size_t budget_room(void);
void budget_apply(const struct budget *budget, char **room);

#endif
