/* SPDX-License-Identifier: Apache-2.0 */
/* What the guardian does to the tree of cgroups; knows nothing of time and heartbeats. */
#ifndef AGENTCGROUP_GUARDIAN_TREE_H
#define AGENTCGROUP_GUARDIAN_TREE_H

#include "text.h"

struct relief {
	unsigned int thawed;
	unsigned int raised;
};

/*
 * Thaws every frozen leaf of ROOT/SESSION/tools/LEAF, high priority first, and raises
 * memory.high to what the leaf uses plus an equal share of what is free, at most its
 * memory.max. Never lowers. `all` also raises leaves that are not near their grant. Sessions
 * that were adopted in place, which an attribute of ROOT names, are among them.
 * `budget_bytes` counts when ROOT has no memory.max of its own; 0 = 95 % of the host's.
 */
void tree_relieve(const char *root, uint64_t budget_bytes, bool all, struct relief *done);

/* Adds one to the epoch kept at ROOT and notes the time; the new number, 0 if it failed. */
uint64_t tree_bump_epoch(const char *root);

#endif
