# SPDX-License-Identifier: Apache-2.0
"""Facts about an ended tool call -> the outcome an agent can act on. Pure.

`message` is two or three plain sentences for a language model: what ended it, the
limit, the peak, the biggest process, what to try. A call that ended well has none.
Where the caller and the kernel disagree, the kernel is right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..errors import printable
from ..types.actions import Because, Code
from ..types.intents import Intent
from ..types.outcomes import BiggestProcess, Level, Outcome, Reason, Retry
from ..units import MIB, format_bytes

__all__ = ["EndFacts", "build_outcome", "plain_command"]

_COMMAND_CHARS = 64
_WORTH_TELLING_BYTES = 16 * MIB
_LEVEL_OF_CODE = {Code.SESSION_FULL: Level.SESSION, Code.HOST_FULL: Level.HOST}


@dataclass(frozen=True, slots=True)
class EndFacts:
    """Everything known when the leaf is about to be removed. Bytes, seconds, milliseconds."""

    call: str
    session: str
    intent: Intent
    exit_code: int | None = None
    signal: int | None = None
    oom_level: Level | None = None
    killed: Reason | None = None
    because: Because | None = None
    lost: bool = False
    peak_memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    shmem_bytes: int | None = None
    cache_bytes: int | None = None
    left_shmem_bytes: int | None = None
    cpu_s: float | None = None
    throttled_ms: float | None = None
    waited_ms: float | None = None
    frozen_ms: float | None = None
    pids_peak: int | None = None
    pids_limit_hits: int | None = None
    pids_max: int | None = None
    learned_bytes: int | None = None
    swap_limit_hits: int | None = None
    io_bytes: int | None = None
    duration_s: float | None = None
    background_pids: tuple[int, ...] = ()
    biggest: BiggestProcess | None = None
    tools_bytes: int | None = None
    ended_epoch_s: float | None = None


def build_outcome(facts: EndFacts) -> Outcome:
    if facts.biggest is not None:
        facts = replace(facts, biggest=_plain_process(facts.biggest))
    reason = _reason(facts)
    facts = _with_the_full_level(facts, reason)
    return Outcome(
        call=facts.call,
        session=facts.session,
        reason=reason,
        level=facts.oom_level if reason is Reason.OOM_KILLED else None,
        label=_shown(facts.intent.label),
        command=plain_command(facts.intent.command),
        peak_memory_bytes=facts.peak_memory_bytes,
        memory_limit_bytes=facts.memory_limit_bytes,
        learned_memory_bytes=facts.learned_bytes,
        cpu_s=facts.cpu_s,
        throttled_ms=facts.throttled_ms,
        waited_ms=facts.waited_ms,
        frozen_ms=facts.frozen_ms,
        pids_peak=facts.pids_peak,
        pids_limit_hits=facts.pids_limit_hits,
        io_bytes=facts.io_bytes,
        duration_s=facts.duration_s,
        exit_code=facts.exit_code if facts.signal is None else None,
        signal=facts.signal,
        background_pids=list(facts.background_pids),
        biggest_process=facts.biggest,
        retry=_retry(facts, reason),
        message=_message(facts, reason),
        ended_epoch_s=facts.ended_epoch_s,
    )


def _with_the_full_level(facts: EndFacts, reason: Reason) -> EndFacts:
    """Policy ended it where the kernel would have: the level and the limit are policy's."""
    because = facts.because
    if reason is not Reason.OOM_KILLED or because is None or because.code not in _LEVEL_OF_CODE:
        return facts
    limit = because.figures.get("room_bytes", facts.memory_limit_bytes)
    return replace(
        facts,
        oom_level=_LEVEL_OF_CODE[because.code],
        memory_limit_bytes=None if limit is None else int(limit),
    )


def plain_command(command: str | None) -> str | None:
    """A foreign command line made printable and short; data, never an instruction."""
    if command is None:
        return None
    return printable(command, _COMMAND_CHARS)[1:-1]


def _plain_process(process: BiggestProcess) -> BiggestProcess:
    return process.model_copy(update={"command": plain_command(process.command)})


def _shown(label: str | None) -> str | None:
    return None if label is None else printable(label, 128)[1:-1]


def _reason(facts: EndFacts) -> Reason:
    if facts.killed is not None:
        return facts.killed
    if facts.oom_level is not None and not (facts.exit_code == 0 and facts.signal is None):
        return Reason.OOM_KILLED
    if facts.lost:
        return Reason.LOST
    if facts.signal is None and facts.exit_code == 0:
        return Reason.COMPLETED
    return Reason.FAILED


def _retry(facts: EndFacts, reason: Reason) -> Retry | None:
    if reason is Reason.COMPLETED:
        return None
    if reason is Reason.OOM_KILLED:
        return _retry_with_more(facts)
    if reason is Reason.TIMED_OUT and facts.intent.timeout_s:
        return Retry(
            worthwhile=True, intent=_same_with(facts, {"timeout_s": facts.intent.timeout_s * 2})
        )
    if reason is Reason.FAILED and facts.pids_limit_hits:
        return Retry(
            worthwhile=True, intent=_same_with(facts, {"pids_max": (facts.pids_max or 512) * 2})
        )
    if reason in (Reason.KILLED_BY_POLICY, Reason.LOST):
        return Retry(worthwhile=True, intent=_same_with(facts, {}))
    return Retry(worthwhile=False)


def _retry_with_more(facts: EndFacts) -> Retry:
    limit = facts.memory_limit_bytes or facts.peak_memory_bytes or 0
    more = max(2 * limit, 64 * MIB)
    room = facts.tools_bytes
    if room is not None:
        more = min(more, room)
    if facts.oom_level is not Level.CALL or more <= limit:
        return Retry(worthwhile=False)
    return Retry(worthwhile=True, intent=_same_with(facts, {"memory": more, "memory_max": more}))


def _same_with(facts: EndFacts, changed: dict[str, Any]) -> dict[str, Any]:
    kept = facts.intent.model_dump(mode="json", exclude_none=True)
    for name in ("command", "label", "retry_of"):
        kept.pop(name, None)
    return {**kept, **changed, "retry_of": facts.call}


def _message(facts: EndFacts, reason: Reason) -> str:
    if reason is Reason.COMPLETED:
        return ""
    sentences = {
        Reason.OOM_KILLED: _oom_message,
        Reason.TIMED_OUT: _timeout_message,
        Reason.KILLED_BY_POLICY: _policy_message,
        Reason.LOST: _lost_message,
    }.get(reason, _failed_message)(facts)
    return " ".join(sentence for sentence in sentences if sentence)


def _oom_message(facts: EndFacts) -> list[str]:
    limit = _size(facts.memory_limit_bytes)
    place = {
        Level.CALL: f"this tool call reached its memory limit of {limit}",
        Level.TOOLS: f"the session's tool calls together reached their memory limit of {limit}",
        Level.SESSION: "the session reached its memory budget",
        Level.HOST: "the host ran out of memory",
        None: "a memory limit was reached",
    }[facts.oom_level]
    if facts.because and facts.because.code in _LEVEL_OF_CODE:
        place = facts.because.text
    peak = f" Its peak was {_size(facts.peak_memory_bytes)}." if facts.peak_memory_bytes else ""
    return [
        f"Killed for memory: {place}; only this tool call was killed.{peak}",
        _biggest_sentence(facts.biggest),
        _swap_sentence(facts),
        _files_sentence(facts),
        _oom_advice(facts),
    ]


def _oom_advice(facts: EndFacts) -> str:
    retry = _retry_with_more(facts)
    if retry.worthwhile and retry.intent:
        return (
            f"Try again with less at a time (fewer workers, smaller batches, one test file),"
            f" or declare memory={_size(retry.intent['memory'])}."
        )
    return (
        "More memory is not available here: run it with fewer workers, smaller batches or on"
        " a part of the input."
    )


def _timeout_message(facts: EndFacts) -> list[str]:
    limit = f"{facts.intent.timeout_s:g} s" if facts.intent.timeout_s else "its limit"
    return [
        f"Stopped: the command ran for its timeout of {limit}.",
        f"It used {facts.cpu_s:.1f} s of CPU time." if facts.cpu_s is not None else "",
        "If it was making progress, declare a longer timeout_s; if it waits for input or hangs,"
        " run a smaller part of it.",
    ]


def _policy_message(facts: EndFacts) -> list[str]:
    if facts.because and facts.because.code is Code.SESSION_ENDED:
        return [
            "Killed: its session ended while it ran.",
            "Nothing is wrong with the command: run it again in another session if it is"
            " still needed.",
        ]
    why = facts.because.text if facts.because else "the host had to free memory"
    return [
        f"Killed by the resource policy: {why}.",
        f"It held {_size(facts.peak_memory_bytes)} at its peak." if facts.peak_memory_bytes else "",
        _files_sentence(facts),
        "Nothing is wrong with the command: run it again, alone or with a declared memory"
        " so that it is started when there is room.",
    ]


def _lost_message(facts: EndFacts) -> list[str]:
    return [
        "The result is unknown: the resource daemon and the program that waited for the"
        " command ended together.",
        "Check what the command left behind, then run it again if needed.",
    ]


def _failed_message(facts: EndFacts) -> list[str]:
    """Only limits that the agent could not see explain themselves; a plain failure says nothing."""
    if facts.pids_limit_hits:
        return [
            f"The command could not start more processes: its limit is {facts.pids_max}"
            f" processes and threads, and it was hit {facts.pids_limit_hits} times.",
            "Use fewer workers, or declare a larger pids_max.",
        ]
    return []


def _swap_sentence(facts: EndFacts) -> str:
    if facts.swap_limit_hits:
        return "It tried to swap, which this tool call may not (swap_max)."
    return ""


def _files_sentence(facts: EndFacts) -> str:
    """Memory that is files: in tmpfs it stays when the call is gone, page cache costs nobody."""
    told = []
    if _many(facts.shmem_bytes):
        told.append(
            f"{_size(facts.shmem_bytes)} of it were files in tmpfs or shared memory (such as"
            " /dev/shm), and stay in memory until they are deleted."
        )
    if _many(facts.left_shmem_bytes):
        told.append(
            f"Earlier tool calls of this session left {_size(facts.left_shmem_bytes)} in such"
            " files: delete what is not needed."
        )
    if _many(facts.cache_bytes):
        told.append(
            f"{_size(facts.cache_bytes)} of it were page cache of files, which is given back"
            " when memory is short: don't count it as needed."
        )
    return " ".join(told)


def _many(size_bytes: int | None) -> bool:
    return size_bytes is not None and size_bytes > _WORTH_TELLING_BYTES


def _biggest_sentence(biggest: BiggestProcess | None) -> str:
    if biggest is None:
        return ""
    size = f" with {_size(biggest.rss_bytes)}" if biggest.rss_bytes else ""
    return f"The biggest process was {biggest.command!r} (pid {biggest.pid}){size}."


def _size(size_bytes: int | None) -> str:
    return "unknown size" if size_bytes is None else format_bytes(size_bytes)
