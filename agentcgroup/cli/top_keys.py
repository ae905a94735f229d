# SPDX-License-Identifier: Apache-2.0
"""What a key does to what `top` shows. Pure: bytes become keys, a key a new state."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace

__all__ = ["SORT_KEYS", "KeyReader", "Ui", "bounded", "press"]

SORT_KEYS = {"c": "cpu", "m": "memory", "p": "pressure", "w": "delayed", "n": "name"}
_LONGEST_FILTER = 64
_SEQUENCES = {
    "[A": "up", "[B": "down", "OA": "up", "OB": "down", "[5~": "page up", "[6~": "page down",
    "[H": "home", "[F": "end", "OH": "home", "OF": "end", "[1~": "home", "[4~": "end",
}  # fmt: skip
_CONTROLS = {
    "\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace", "\x15": "erase",
    "\x0c": "redraw",
}  # fmt: skip
_KEY = re.compile(r"\x1b([\[O][0-9;]*[A-Za-z~])|(.)", re.S)
_MOVES = {"up": -1, "k": -1, "down": 1, "j": 1}


@dataclass(frozen=True, slots=True)
class Ui:
    """`scroll` counts rows; whoever draws bounds it. `page` is how many rows it drew."""

    sort: str = "memory"
    reverse: bool = False
    filter: str = ""
    editing: bool = False
    scroll: int = 0
    page: int = 10
    done: bool = False


class KeyReader:
    """Turns what a terminal sends into names of keys; characters stand for themselves."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def keys(self, data: bytes) -> list[str]:
        found = []
        for sequence, char in _KEY.findall(self._decoder.decode(data)):
            if sequence:
                found.append(_SEQUENCES.get(sequence, ""))
            else:
                found.append("escape" if char == "\x1b" else _CONTROLS.get(char, char))
        return [key for key in found if key]


def press(ui: Ui, key: str) -> Ui:
    """The state after one key. While a filter is typed, letters belong to it."""
    if ui.editing:
        return _edit(ui, key)
    if key == "q":
        return replace(ui, done=True)
    if key in SORT_KEYS:
        return replace(ui, sort=SORT_KEYS[key], scroll=0)
    if key == "r":
        return replace(ui, reverse=not ui.reverse, scroll=0)
    if key == "/":
        return replace(ui, editing=True, filter="", scroll=0)
    if key == "escape":
        return replace(ui, filter="", scroll=0)
    return replace(ui, scroll=_scrolled(ui, key))


def bounded(ui: Ui, rows: int, page: int) -> Ui:
    """Scrolled no further than to the last page of `rows`."""
    return replace(ui, scroll=max(0, min(ui.scroll, rows - page)), page=max(1, page))


def _edit(ui: Ui, key: str) -> Ui:
    if key == "enter":
        return replace(ui, editing=False)
    if key == "escape":
        return replace(ui, editing=False, filter="")
    if key == "erase":
        return replace(ui, filter="")
    if key == "backspace":
        return replace(ui, filter=ui.filter[:-1])
    if len(key) == 1 and key.isprintable():
        return replace(ui, filter=(ui.filter + key)[:_LONGEST_FILTER])
    return ui


def _scrolled(ui: Ui, key: str) -> int:
    if key in _MOVES:
        return max(0, ui.scroll + _MOVES[key])
    if key == "page up":
        return max(0, ui.scroll - ui.page)
    if key in ("page down", " "):
        return ui.scroll + ui.page
    if key == "home":
        return 0
    return 1 << 30 if key == "end" else ui.scroll
