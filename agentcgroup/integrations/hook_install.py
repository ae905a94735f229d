# SPDX-License-Identifier: Apache-2.0
"""Writes our hooks into an agent's own settings file, and takes them out again.

The file is edited as text. What it was before is kept beside it, so that taking out gives
back the same bytes; if it was edited meanwhile, only what is ours goes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import json_text
from .hook_agents import Agent

__all__ = ["Change", "apply", "plan_install", "plan_uninstall"]

_TIMEOUT_S = 30
_NEW_FILE_MODE = 0o644
_OURS = re.compile(r"agentcgroup['\"]? hook run(\s|$)")


@dataclass(frozen=True, slots=True)
class Change:
    """What a file is and would become; None: there is none."""

    file: Path
    before: str | None
    after: str | None
    installs: bool

    @property
    def needed(self) -> bool:
        return self.before != self.after


def plan_install(agent: Agent, file: Path, program: str, mode: str) -> Change:
    """`program` is the agentcgroup that the agent will call."""
    before = _read(file)
    text = "{}\n" if before is None else before
    _check(file, text)
    words = [program, "hook", "run", agent.name, *(["--mode", mode] if mode != "auto" else [])]
    command = shlex.join(words)
    if _commands(text) == {event: [command] for event in (agent.before, *agent.after)}:
        return Change(file, before, before, installs=True)
    text = _without_ours(text, kept=text)
    for event in (agent.before, *agent.after):
        text = _with_hook(text, event, command)
    if before is None:
        text = json.dumps(json.loads(text), indent=2) + "\n"
    return Change(file, before, text, installs=True)


def plan_uninstall(file: Path) -> Change:
    before = _read(file)
    if before is None:
        return Change(file, None, None, installs=False)
    _check(file, before)
    if not _commands(before):
        return Change(file, before, before, installs=False)
    original = _read(_kept(file))
    after: str | None = _without_ours(before, kept=original)
    assert after is not None
    if original is None:
        after = None if not json_text.read(after).value else after
    elif json_text.read(after).value == json_text.read(original).value:
        after = original
    return Change(file, before, after, installs=False)


def apply(change: Change) -> None:
    """Writes the file as a whole or not at all; keeps its rights and what it was before."""
    if not change.needed:
        return
    kept = _kept(change.file)
    try:
        if change.installs and change.before is not None and not _commands(change.before):
            _write(kept, change.before, like=change.file)
        if change.after is None:
            change.file.unlink()
        else:
            change.file.parent.mkdir(parents=True, exist_ok=True)
            _write(change.file, change.after, like=change.file)
        if not change.installs:
            kept.unlink(missing_ok=True)
    except OSError as problem:
        raise ConfigError(
            "file", str(change.file), f"it can't be written ({problem.strerror})"
        ) from None


def _kept(file: Path) -> Path:
    return file.with_name(file.name + ".before-agentcgroup")


def _read(file: Path) -> str | None:
    try:
        return file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise ConfigError("file", str(file), f"it can't be read ({problem.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError("file", str(file), "it is not UTF-8; nothing was changed") from None


def _check(file: Path, text: str) -> None:
    """Only where our hooks go must be as documented; the rest is none of our business."""
    try:
        root = json_text.read(text)
    except (json.JSONDecodeError, RecursionError) as problem:
        where = f"line {problem.lineno}: " if isinstance(problem, json.JSONDecodeError) else ""
        raise ConfigError(
            "file", str(file), f"it is not JSON ({where}{problem}); correct it first"
        ) from None
    hooks = root.value.get("hooks", {}) if isinstance(root.value, dict) else None
    if not isinstance(hooks, dict) or not all(isinstance(v, list) for v in hooks.values()):
        raise ConfigError(
            "file", str(file), "hooks must be an object of lists by event; correct it first"
        )


def _handlers(root: json_text.Node) -> list[tuple[str, int, int, Any]]:
    """(event, number of its group, number in the group, handler), as far as well-formed."""
    hooks = root.value.get("hooks", {})
    return [
        (event, at, number, handler)
        for event, groups in hooks.items()
        for at, group in enumerate(groups)
        if isinstance(group, dict) and isinstance(group.get("hooks"), list)
        for number, handler in enumerate(group["hooks"])
    ]


def _is_ours(handler: Any) -> bool:
    return isinstance(handler, dict) and bool(_OURS.search(str(handler.get("command", ""))))


def _commands(text: str) -> dict[str, list[str]]:
    """Our commands by event."""
    found: dict[str, list[str]] = {}
    for event, _, _, handler in _handlers(json_text.read(text)):
        if _is_ours(handler):
            found.setdefault(event, []).append(handler["command"])
    return found


def _with_hook(text: str, event: str, command: str) -> str:
    handler = {"type": "command", "command": command, "timeout": _TIMEOUT_S}
    group = {"matcher": "Bash", "hooks": [handler]}
    root = json_text.read(text)
    hooks = root.child("hooks")
    if hooks is None:
        return json_text.append(text, root, "hooks", {event: [group]}, 0)
    groups = hooks.child(event)
    if groups is None:
        return json_text.append(text, hooks, event, [group], 1)
    return json_text.append(text, groups, None, group, 2)


def _without_ours(text: str, kept: str | None) -> str:
    """Without our handlers and what they leave empty, unless `kept` had it empty, too."""
    before = json_text.read(kept).value.get("hooks") if kept is not None else None
    while True:
        root = json_text.read(text)
        ours = next((found for found in _handlers(root) if _is_ours(found[3])), None)
        if ours is None:
            return text
        event, at, number, _ = ours
        hooks = root.child("hooks")
        groups = hooks.child(event) if hooks else None
        assert hooks is not None and groups is not None
        group = groups.parts[at][2]
        handlers = group.child("hooks")
        assert handlers is not None
        if len(handlers.parts) > 1:
            text = json_text.without(text, handlers, number)
        elif len(groups.parts) > 1 or (before is not None and event in before):
            text = json_text.without(text, groups, at)
        elif len(hooks.parts) > 1 or before is not None:
            text = json_text.without(text, hooks, _place(hooks, event))
        else:
            text = json_text.without(text, root, _place(root, "hooks"))


def _place(node: json_text.Node, key: str) -> int:
    return max(at for at, (name, _, _) in enumerate(node.parts) if name == key)


def _write(file: Path, text: str, like: Path) -> None:
    target = file.resolve()  # a link into somebody's dotfiles stays a link
    with tempfile.NamedTemporaryFile("wb", dir=target.parent, delete=False) as new:
        try:
            new.write(text.encode("utf-8"))
            new.flush()
            os.fchmod(new.fileno(), _NEW_FILE_MODE)
            with contextlib.suppress(FileNotFoundError):
                status = like.stat()
                os.fchmod(new.fileno(), stat.S_IMODE(status.st_mode))
                if os.geteuid() == 0:
                    shutil.chown(new.name, status.st_uid, status.st_gid)
            Path(new.name).replace(target)
        except BaseException:
            Path(new.name).unlink(missing_ok=True)
            raise
