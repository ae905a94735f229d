/* SPDX-License-Identifier: Apache-2.0 */
/*
 * As somebody's shell: `SHELL=agentcgroup-run`, or a link to it whose name ends in "sh". The
 * arguments are bash's own. What is not interactive runs as a tool call; whatever goes wrong
 * with that, it runs.
 */
#ifndef AGENTCGROUP_SHELL_H
#define AGENTCGROUP_SHELL_H

#include "options.h"

/* Called by a shell's name. */
bool shell_is_name(const char *program);

/* An argument that no option of ours looks like, and bash has. */
bool shell_is_option(const char *argument);

/* The command becomes bash with these arguments, the intent what is said in its text or the
 * environment. Returns -1 to go on, else the exit status to leave with. */
int shell_options(struct options *options, const char *program, char **arguments);

#endif
