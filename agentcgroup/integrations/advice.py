# SPDX-License-Identifier: Apache-2.0
"""What a budget means for the next command, in words for a model. Pure.

Programs that ask the machine how many cores it has get the machine's number, not the
session's: `nproc`, os.cpu_count(), make -j$(nproc), pytest -n auto. Each of their workers
then takes memory for a core that it does not have.
"""

from __future__ import annotations

from ..units import format_bytes

__all__ = ["CPUS_VARIABLE", "MEMORY_VARIABLE", "budget_advice", "budget_variables", "workers"]

CPUS_VARIABLE = "AGENTCGROUP_CPUS"
MEMORY_VARIABLE = "AGENTCGROUP_MEMORY"

_WORKER_BYTES = 256 << 20


def workers(cpu: float | None, host_cpus: int, memory_bytes: int | None = None) -> int:
    """How many workers a command should start: whole cores, and 256 MiB for each, at least 1."""
    cores = host_cpus if cpu is None else min(int(cpu), host_cpus)
    if memory_bytes is not None:
        cores = min(cores, memory_bytes // _WORKER_BYTES)
    return max(1, cores)


def budget_variables(cpu: float | None, memory_bytes: int | None, host_cpus: int) -> dict[str, str]:
    """The same for programs: whole cores, at least 1, and bytes as far as they are known."""
    told = {CPUS_VARIABLE: str(workers(cpu, host_cpus))}
    if memory_bytes is not None:
        told[MEMORY_VARIABLE] = str(memory_bytes)
    return told


def budget_advice(cpu: float | None, host_cpus: int, memory_free_bytes: int | None) -> str:
    """Two or three sentences; cores and bytes of the session."""
    count = workers(cpu, host_cpus, memory_free_bytes)
    sentences = []
    if memory_free_bytes is not None:
        sentences.append(
            f"{format_bytes(memory_free_bytes)} of memory are free for commands now: declare what"
            " a command needs if it is more than a fraction of that."
        )
    if count < host_cpus:
        sentences.append(
            f"nproc and similar say {host_cpus}, which is the machine and not your share: use"
            f" {count} workers (make -j{count}, pytest -n {count}, OMP_NUM_THREADS={count},"
            f" CARGO_BUILD_JOBS={count})."
        )
    return " ".join(sentences)
