/* SPDX-License-Identifier: Apache-2.0 */
/* Processes that the exec boundary stopped and nobody continued. */
#ifndef AGENTCGROUP_GUARDIAN_STOPPED_H
#define AGENTCGROUP_GUARDIAN_STOPPED_H

#include <stdbool.h>

/*
 * Continues those whose time is over, or `all`; how many. The BPF maps that list them are below
 * the directory that an attribute of ROOT names; without the attribute there are none.
 */
unsigned int stopped_continue(const char *root, bool all);

#endif
