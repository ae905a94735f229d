#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The yardstick: one tool call the way a shell wrapper does it, as the paper describes:
# make a cgroup, note the time, write limits, move in, run, read the peak, remove, log.
#
#   paper_wrapper.sh CGROUP LOG COMMAND [ARGUMENT...]
set -u

if [ $# -lt 3 ]; then
	echo "usage: paper_wrapper.sh CGROUP LOG COMMAND [ARGUMENT...]" >&2
	exit 2
fi
parent=$1
log=$2
shift 2

start_ns=$(date +%s%N)
leaf=$parent/tool_$$_$start_ns
mkdir "$leaf" || exit 1
echo "${AGENT_RESOURCE_HIGH:-268435456}" > "$leaf/memory.high"
echo "${AGENT_RESOURCE_MAX:-536870912}" > "$leaf/memory.max"

(
	echo "$BASHPID" > "$leaf/cgroup.procs" || exit 1
	exec "$@"
)
status=$?

peak_bytes=$(cat "$leaf/memory.peak")
oom_kills=$(grep -w oom_kill "$leaf/memory.events" | cut -d' ' -f2)
rmdir "$leaf"
end_ns=$(date +%s%N)
echo "{\"command\":\"$1\",\"status\":$status,\"peak_bytes\":${peak_bytes:-null},\"oom_kills\":${oom_kills:-0},\"duration_ns\":$((end_ns - start_ns))}" >> "$log"
if [ "$status" -eq 137 ]; then
	echo "the command was killed at its memory limit (peak ${peak_bytes:-?} bytes)" >&2
fi
exit "$status"
