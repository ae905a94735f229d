# SPDX-License-Identifier: Apache-2.0
"""The configuration file, TOML at /etc/agentcgroup/config.toml. Unknown keys are refused.

Every key has a default, so an absent file is a complete configuration.
"""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from ..errors import ConfigError, InvalidValueError
from ..policy.delay import CEILING_MS
from ..policy.state import RepeatOom
from ..protocol.sockets import DEFAULT_AGENT_SOCKET
from ..sandbox.docker import DEFAULT_HOST
from ..sandbox.labels import LabelFilter
from ..supervisor.rules import RuleLimits
from ..types.intents import Duration, Size
from ..types.sessions import Boundary, Mode, ProgramNames, SessionSpec
from ..types.validation import WireModel, parse

__all__ = [
    "DEFAULT_CONFIG_PATH", "GATE", "MEMCG_OPS", "SCHED_EXT", "BoundaryConfig", "BoundarySource",
    "Config", "SupervisionMode", "SupervisorConfig", "Wish", "load_config",
]  # fmt: skip

DEFAULT_CONFIG_PATH = "/etc/agentcgroup/config.toml"
MEMCG_OPS = "memcg_ops"
SCHED_EXT = "sched_ext"
GATE = "gate"
_LAYER = f"(files|events|{GATE}|{MEMCG_OPS})"
_MEMORY_LAYERS = f"^(auto|{_LAYER}(, ?{_LAYER})*)$"


class Wish(StrEnum):
    """For a layer that is off by default: without it, use it if it can be had, or insist."""

    OFF = "off"
    ON = "on"
    REQUIRED = "required"


class DaemonConfig(WireModel):
    """`root` empty = the delegated scope under systemd, else /sys/fs/cgroup/agentcgroup."""

    root: str = ""
    socket: str = DEFAULT_AGENT_SOCKET
    state_dir: str = "/var/lib/agentcgroup"
    run_dir: str = "/run/agentcgroup"
    group: str = "agentcgroup"
    mode: Mode = Mode.ENFORCE
    memory_layers: Annotated[str, Field(pattern=_MEMORY_LAYERS)] = "auto"
    memcg_ops: Wish = Wish.OFF
    cpu_layer: Annotated[str, Field(pattern="^(auto|files|sched_ext)$")] = "auto"
    cpu_require: bool = False
    guardian: bool = True
    guardian_timeout_s: Duration = 2.0
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    decision_log: str = ""

    @property
    def wants_events(self) -> bool:
        """BPF reports pressure if it can; `auto` is all but what is off by default."""
        return self.memory_layers == "auto" or "events" in self.memory_layers

    @property
    def names_gate(self) -> bool:
        return GATE in self.memory_layers

    @property
    def wants_gate(self) -> bool:
        """Where the scheduler runs `auto` has it, too."""
        return self.memory_layers == "auto" or self.names_gate

    @model_validator(mode="after")
    def _gate_is_in_the_scheduler(self) -> DaemonConfig:
        if self.names_gate and self.cpu_layer != SCHED_EXT:
            raise InvalidValueError(
                "memory_layers", self.memory_layers,
                f"the gate is a part of the scheduler: add cpu_layer = '{SCHED_EXT}'"
                f" (--cpu {SCHED_EXT}), or leave '{GATE}' out",
            )  # fmt: skip
        return self

    @property
    def wants_hooks(self) -> Wish:
        """Who names the layer demands it."""
        return Wish.REQUIRED if MEMCG_OPS in self.memory_layers else self.memcg_ops


class HostConfig(WireModel):
    """`memory_reserve` missing = max(5 % of the host, 512M)."""

    memory_reserve: Size | None = None


class SessionDefaults(WireModel):
    memory_reserve: Size = 64 << 20
    pids_max: Annotated[int, Field(ge=16, le=4194304)] = 4096
    pids_reserve: Annotated[int, Field(ge=4, le=65536)] = 64
    max_calls: Annotated[int, Field(ge=1, le=100000)] = 1000
    max_queued: Annotated[int, Field(ge=1, le=100000)] = 200


class CallDefaults(WireModel):
    memory: Size = 128 << 20
    pids_max: Annotated[int, Field(ge=1, le=4194304)] = 512
    max_wait_s: Duration = 300.0
    term_grace_s: Duration = 5.0


class PolicyTuning(WireModel):
    step: Size = 32 << 20
    throttle_max_ms: Annotated[int, Field(ge=10, le=60000)] = 250
    deadlock_after_ms: Annotated[int, Field(ge=100, le=600000)] = 1000
    repeat_oom: RepeatOom = RepeatOom.REFUSE
    gate_closed_ms: Annotated[int, Field(ge=1, le=1000)] = 50
    gate_open_ms: Annotated[int, Field(ge=1, le=1000)] = 10
    delay_max_ms: Annotated[int, Field(ge=1, le=CEILING_MS)] = 200
    delay_burst_pct: Annotated[int, Field(ge=0, le=100)] = 12
    delay_window_pct: Annotated[int, Field(ge=1, le=1000)] = 25


def _label(text: str) -> str:
    if text:
        LabelFilter.parse(text, "adopt")
    return text


class DockerConfig(WireModel):
    """`adopt`: containers with this label (KEY or KEY=VALUE) become sessions as they start.

    An engine elsewhere has its cgroups elsewhere, so `host` is a Unix socket.
    """

    host: Annotated[str, Field(pattern="^unix:///.")] = DEFAULT_HOST
    adopt: Annotated[str, AfterValidator(_label)] = ""

    @property
    def label(self) -> LabelFilter | None:
        return LabelFilter.parse(self.adopt) if self.adopt else None


class BoundarySource(StrEnum):
    """Who tells of execs: BPF stops them, the process connector reports them a moment later."""

    AUTO = "auto"
    BPF = "bpf"
    CONNECTOR = "connector"


class BoundaryConfig(WireModel):
    """For sessions that do not say it: those made of what runs already, those made anew.

    `patience_s`: how long a process stands still for a daemon that has not answered.
    """

    adopted: Boundary = Boundary.EXEC
    created: Boundary = Boundary.DECLARED
    programs: ProgramNames = [
        "sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "busybox", "rbash",
    ]  # fmt: skip
    ignore: ProgramNames = []
    source: BoundarySource = BoundarySource.AUTO
    patience_s: Duration = 2.0

    def applied(self, spec: SessionSpec, *, adopted: bool) -> SessionSpec:
        """`spec` with a boundary, its own or the default's."""
        default = self.adopted if adopted else self.created
        return spec.model_copy(update={"boundary": spec.boundary or default})


class OutcomeStore(WireModel):
    keep: Annotated[int, Field(ge=1, le=1000000)] = 1000
    keep_hours: Annotated[float, Field(gt=0, le=24 * 365)] = 24.0


class SupervisionMode(StrEnum):
    """observe = judge and log, tell nobody; advise = tell the agent; enforce = end the session."""

    OFF = "off"
    OBSERVE = "observe"
    ADVISE = "advise"
    ENFORCE = "enforce"


Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SupervisorConfig(WireModel):
    """`model` empty = rules alone. `protect`: names of sessions (with * and ?) never ended."""

    mode: SupervisionMode = SupervisionMode.OBSERVE
    model: str = ""
    answer_first: bool = False
    stop_grace_s: Duration = 10.0
    protect: list[str] = []
    energy_j_per_token: Amount | None = None
    energy_j_per_s: Amount | None = None
    limits: RuleLimits = RuleLimits()


class Config(WireModel):
    daemon: DaemonConfig = DaemonConfig()
    host: HostConfig = HostConfig()
    session: SessionDefaults = SessionDefaults()
    call: CallDefaults = CallDefaults()
    policy: PolicyTuning = PolicyTuning()
    outcomes: OutcomeStore = OutcomeStore()
    docker: DockerConfig = DockerConfig()
    boundary: BoundaryConfig = BoundaryConfig()
    supervisor: SupervisorConfig = SupervisorConfig()


def load_config(path: str | None = None) -> Config:
    """The file at `path`; without one the default file if it is there, else all defaults.

    Raises ConfigError (exit code 78) that names the key, the value and the remedy.
    """
    where = Path(path or DEFAULT_CONFIG_PATH)
    if path is None and not where.exists():
        return Config()
    try:
        data = tomllib.loads(where.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("config", str(where), f"make it readable ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError("config", str(where), "save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("config", str(where), f"correct the TOML: {error}") from None
    return parse(Config, data, error=ConfigError)
