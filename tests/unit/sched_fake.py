# SPDX-License-Identifier: Apache-2.0
"""A scheduler as the layer sees it, without a kernel."""

from __future__ import annotations

from agentcgroup.bpf.sched_maps import ExitInfo, Policy, Timing


class FakeScheduler:
    """Keeps what it is told; `failing` makes every write fail, `exit` ends it."""

    def __init__(self, *, gate: bool = True, pinned: tuple[int, ...] = ()) -> None:
        self.timing = Timing()
        self.has_gate = gate
        self.gate_missing = "" if gate else "the kernel has no function"
        self.adopted = bool(pinned)
        self.held: dict[int, Policy | None] = dict.fromkeys(pinned)
        self.writes = 0
        self.failing = self.closed = False
        self.exit: ExitInfo | None = None

    def _write(self) -> None:
        assert not self.closed
        self.writes += 1
        if self.failing:
            raise OSError(7, "Argument list too long")

    def set_policy(self, cgroup_id: int, policy: Policy) -> None:
        self._write()
        self.held[cgroup_id] = policy

    def clear_policy(self, cgroup_id: int) -> None:
        self._write()
        self.held.pop(cgroup_id, None)

    def policies(self) -> list[int]:
        return list(self.held)

    def policy_seen(self, cgroup_id: int) -> Policy | None:
        return self.held.get(cgroup_id)

    def renew(self, until_ns: int) -> None:
        self._write()
        self.timing.lease_until_ns = until_ns

    def pause_gate(self, until_ns: int) -> None:
        self._write()
        self.timing.gate_paused_until_ns = until_ns

    def counts(self, cgroup_id: int) -> dict[str, int] | None:
        if cgroup_id not in self.held:
            return None
        return {"gated_count": 3, "gated_ns": 2_000_000, "throttled_ns": 0}

    def gate_counts(self) -> dict[str, int]:
        return {"low": 3, "normal": 0, "high": 0}

    def ended(self) -> ExitInfo | None:
        return self.exit

    def close(self) -> None:
        assert not self.closed
        self.closed = True
