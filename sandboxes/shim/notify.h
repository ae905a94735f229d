/* SPDX-License-Identifier: Apache-2.0 */
/* The service manager's notification protocol (sd_notify). */
#ifndef AGENTCGROUP_NOTIFY_H
#define AGENTCGROUP_NOTIFY_H

#include "text.h"

/* Opens NOTIFY_SOCKET if it is set. Without it everything here does nothing. */
void notify_open(void);

/* Sends one state such as "READY=1". */
void notify_send(const char *state);

/* Milliseconds between two "WATCHDOG=1", or -1 when none are expected. */
int64_t notify_watchdog_ms(void);

#endif
