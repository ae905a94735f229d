# SPDX-License-Identifier: Apache-2.0
"""What a trace record must look like, checked by hand so that long traces load quickly.

Base units as the names say (bytes, ns, us, ms, s, J). A field that is absent is
unknown, never 0. Fields this table does not know are kept, so that a newer writer's
trace can be read; those whose name ends in a unit are still checked as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import FormatError

__all__ = ["FORMAT_NAME", "FORMAT_VERSION", "KINDS", "Record", "check_header", "check_record"]

Record = dict[str, Any]

FORMAT_NAME = "agentcgroup-trace"
FORMAT_VERSION = 1

# kind -> fields it cannot do without, besides t_ns and kind.
KINDS: dict[str, tuple[str, ...]] = {
    "session": ("session",),
    "call_begin": ("session", "call"),
    "call_end": ("session", "call"),
    "sample": ("session",),
    "step": ("session",),
    "decision": (),
    "dropped": ("count",),
    "end": (),
}

_WHOLE = ("_bytes", "_count", "_ns", "_us")
_REAL = ("_s", "_ms", "_j", "_pct")
_TEXT = frozenset({"session", "call", "tool", "command", "label", "priority", "reason", "action"})
_WHOLE_NAMES = frozenset({"t_ns", "count", "exit_code", "signal", "pid"})
_MAX_WHOLE = (1 << 63) - 1

# Names seen so far -> check: 0 anything, 1 whole number, 2 real number, 3 text.
_checks: dict[str, int] = {}


def _check_of(name: str) -> int:
    if name in _WHOLE_NAMES or name.endswith(_WHOLE):
        check = 1
    elif name in _TEXT:
        check = 3
    elif name.endswith(_REAL):
        check = 2
    else:
        check = 0
    if len(_checks) < 4096:  # names come from the file: bound what is remembered
        _checks[name] = check
    return check


def check_record(record: object, line: int) -> Record:
    """`record` itself if it is well-formed; FormatError names line and field otherwise."""
    if type(record) is not dict:
        raise FormatError(f"line {line}", record, "write one JSON object a line")
    kind = record.get("kind")
    required = KINDS.get(kind) if type(kind) is str else None
    if required is None:
        _bad(line, "kind", kind, "use one of " + ", ".join(KINDS))
    if "t_ns" not in record:
        _bad(line, "t_ns", None, "every record carries its time in ns of the trace's clock")
    for name in required or ():
        if name not in record:
            _bad(line, name, None, f"a {kind} record needs it")
    for name, value in record.items():
        check = _checks.get(name)
        if check is None:
            check = _check_of(name)
        if check:
            _check_value(check, name, value, line)
    return record


def _check_value(check: int, name: str, value: object, line: int) -> None:
    if check == 1:
        if type(value) is not int or not 0 <= value <= _MAX_WHOLE:
            _bad(line, name, value, "must be a whole number, 0 or more; leave it out if unknown")
    elif check == 2:
        if type(value) is not int and type(value) is not float:
            _bad(line, name, value, "must be a number, 0 or more; leave it out if unknown")
        elif not math.isfinite(value) or value < 0:
            _bad(line, name, value, "must be finite, 0 or more; leave it out if unknown")
    elif type(value) is not str or not value:
        _bad(line, name, value, "must be a text that is not empty; leave it out if unknown")


def check_header(header: object, source: str) -> Record:
    """The first line's object, or FormatError."""
    if not isinstance(header, Mapping) or header.get("format") != FORMAT_NAME:
        raise FormatError(
            f"{source}: line 1", header, f'a trace begins with {{"format":"{FORMAT_NAME}",…}}'
        )
    version = header.get("version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        _bad(1, "version", version, f"this release reads version {FORMAT_VERSION}")
    if header.get("clock") != "monotonic":
        _bad(1, "clock", header.get("clock"), "must be monotonic")
    epoch_ns = header.get("epoch_ns")
    if type(epoch_ns) is not int or epoch_ns < 0:
        _bad(1, "epoch_ns", epoch_ns, "must be the Unix time, in ns, at t_ns 0")
    if not isinstance(header.get("host", {}), Mapping):
        _bad(1, "host", header.get("host"), "must be an object")
    return dict(header)


def _bad(line: int, field: str, value: object, remedy: str) -> None:
    raise FormatError(f"line {line}: {field}", value, remedy)
