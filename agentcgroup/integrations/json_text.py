# SPDX-License-Identifier: Apache-2.0
"""Edits JSON as text: what is not touched keeps its bytes.

Somebody's settings file is theirs: order, indentation, escapes and line ends stay.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

__all__ = ["Node", "append", "read", "without"]

_BLANK = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it stands; `parts` are (key or None, start of the part, value)."""

    start: int
    end: int
    value: Any
    parts: tuple[tuple[str | None, int, Node], ...] = ()

    def child(self, key: str) -> Node | None:
        """The member that a reader would take: the last one of this name."""
        found = [node for name, _, node in self.parts if name == key]
        return found[-1] if found else None


def read(text: str) -> Node:
    """Raises json.JSONDecodeError with the position of what is wrong."""
    start = _skip(text, 1 if text.startswith("\ufeff") else 0)
    node = _node(text, start)
    rest = _skip(text, node.end)
    if rest != len(text):
        raise json.JSONDecodeError("Extra data", text, rest)
    return node


def append(text: str, node: Node, key: str | None, value: Any, depth: int) -> str:
    """`value` as the last part of an object (with `key`) or array that is `depth` deep."""
    body = _written(text, value, depth + 1)
    if key is not None:
        body = f"{json.dumps(key)}: {body}"
    newline, unit = _newline(text), _unit(text)
    before = newline + unit * (depth + 1) if newline else ""
    if node.parts:
        at = node.parts[-1][2].end
        return text[:at] + "," + (before or " ") + body + text[at:]
    at = node.start + 1
    after = "" if "\n" in text[at : node.end] or not newline else newline + unit * depth
    return text[:at] + before + body + after + text[at:]


def without(text: str, node: Node, index: int) -> str:
    """The text without one part and the comma that `append` put before it."""
    parts = node.parts
    if index > 0:
        return text[: parts[index - 1][2].end] + text[parts[index][2].end :]
    if len(parts) > 1:
        return text[: parts[0][1]] + text[parts[1][1] :]
    return text[: node.start + 1] + text[node.end - 1 :]


def _node(text: str, at: int) -> Node:
    opening = text[at : at + 1]
    if opening not in ("{", "["):
        value, end = _DECODER.raw_decode(text, at)
        return Node(at, end, value)
    closing = "}" if opening == "{" else "]"
    parts: list[tuple[str | None, int, Node]] = []
    here = _skip(text, at + 1)
    while text[here : here + 1] != closing or parts:
        start, key = here, None
        if opening == "{":
            key, here = _key(text, here)
        part = _node(text, here)
        parts.append((key, start, part))
        here = _skip(text, part.end)
        if text[here : here + 1] == closing:
            break
        if text[here : here + 1] != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, here)
        here = _skip(text, here + 1)
    value = {k: p.value for k, _, p in parts} if opening == "{" else [p.value for _, _, p in parts]
    return Node(at, here + 1, value, tuple(parts))


def _key(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] != '"':
        raise json.JSONDecodeError("Expecting property name in double quotes", text, at)
    key, end = scanstring(text, at + 1)
    colon = _skip(text, end)
    if text[colon : colon + 1] != ":":
        raise json.JSONDecodeError("Expecting ':' delimiter", text, colon)
    return key, _skip(text, colon + 1)


def _skip(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _newline(text: str) -> str:
    """The file's own line end; none in a file of one line."""
    if "\n" not in text.strip():
        return ""
    return "\r\n" if "\r\n" in text else "\n"


def _unit(text: str) -> str:
    match = re.search(r"\n([ \t]+)\S", text)
    return match[1] if match else "  "


def _written(text: str, value: Any, depth: int) -> str:
    if not _newline(text):
        return json.dumps(value)
    lines = json.dumps(value, indent=_unit(text)).split("\n")
    return (_newline(text) + _unit(text) * depth).join(lines)
