# SPDX-License-Identifier: Apache-2.0
"""Joules of a step: what the agent says, else RAPL, else a declared cost; unknown is None.

RAPL counts whole packages (kernel Documentation/power/powercap): a session's part is its share
of the CPU time that the host spent meanwhile. An estimate, and called one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..types.steps import StepReport

__all__ = ["DeclaredCost", "EnergyMeter", "Reading", "read_rapl_uj"]

POWERCAP = Path("/sys/class/powercap")
_IDLE_FIELDS = (3, 4)  # idle, iowait in /proc/stat's first line


@dataclass(frozen=True, slots=True)
class DeclaredCost:
    """Joules per token and per second of a step; None: not declared."""

    j_per_token: float | None = None
    j_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters at one moment; None: not to be had."""

    t_ns: int
    host_uj: dict[str, tuple[int, int]] | None
    host_cpu_ticks: int | None
    session_cpu_s: float | None


class EnergyMeter:
    """`ticks_per_s` of /proc/stat; `powercap` and `stat` for tests."""

    def __init__(
        self,
        declared: DeclaredCost,
        ticks_per_s: int,
        powercap: Path = POWERCAP,
        stat: Path = Path("/proc/stat"),
    ) -> None:
        self._declared = declared
        self._ticks_per_s = ticks_per_s
        self._powercap = powercap
        self._stat = stat

    def read(self, t_ns: int, session_cpu_s: float | None) -> Reading:
        host_uj = read_rapl_uj(self._powercap)
        ticks = _busy_ticks(self._stat) if host_uj is not None else None
        return Reading(t_ns, host_uj, ticks, session_cpu_s)

    def step(
        self, report: StepReport, before: Reading | None, now: Reading
    ) -> tuple[float | None, str]:
        """(joules, where they come from) of the step between two readings."""
        if report.energy_j is not None:
            return report.energy_j, "reported"
        measured = self._measured_j(before, now) if before is not None else None
        if measured is not None:
            return measured, "rapl share"
        return self._declared_j(report, before, now)

    def _measured_j(self, before: Reading, now: Reading) -> float | None:
        if before.host_uj is None or now.host_uj is None:
            return None
        if before.host_cpu_ticks is None or now.host_cpu_ticks is None:
            return None
        if before.session_cpu_s is None or now.session_cpu_s is None:
            return None
        host_cpu_s = (now.host_cpu_ticks - before.host_cpu_ticks) / self._ticks_per_s
        if host_cpu_s <= 0 or before.host_uj.keys() != now.host_uj.keys():
            return None
        used_uj = 0
        for name, (value, wraps_at) in now.host_uj.items():
            used_uj += (value - before.host_uj[name][0]) % (wraps_at + 1)
        share = (now.session_cpu_s - before.session_cpu_s) / host_cpu_s
        return used_uj * 1e-6 * min(1.0, max(0.0, share))

    def _declared_j(
        self, report: StepReport, before: Reading | None, now: Reading
    ) -> tuple[float | None, str]:
        if self._declared.j_per_token is not None:
            tokens = report.prompt_tokens + report.completion_tokens
            return tokens * self._declared.j_per_token, "declared per token"
        if self._declared.j_per_s is not None and before is not None:
            return (now.t_ns - before.t_ns) * 1e-9 * self._declared.j_per_s, "declared per second"
        return None, "unknown"


def read_rapl_uj(powercap: Path = POWERCAP) -> dict[str, tuple[int, int]] | None:
    """Each package's (counter, largest value) in microjoules; None where there is no RAPL or it
    can't be read."""
    found = {}
    for zone in sorted(powercap.glob("intel-rapl:*")):
        if zone.name.count(":") != 1:
            continue  # a part of a package
        try:
            found[zone.name] = (
                int((zone / "energy_uj").read_text(encoding="ascii")),
                int((zone / "max_energy_range_uj").read_text(encoding="ascii")),
            )
        except (OSError, ValueError):
            return None
    return found or None


def _busy_ticks(stat: Path) -> int | None:
    try:
        fields = [int(word) for word in stat.read_text(encoding="ascii").split("\n")[0].split()[1:]]
    except (OSError, ValueError):
        return None
    return sum(value for place, value in enumerate(fields[:8]) if place not in _IDLE_FIELDS)
