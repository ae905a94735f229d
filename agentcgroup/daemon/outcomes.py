# SPDX-License-Identifier: Apache-2.0
"""Ended calls, kept on disk and found again after a restart.

One JSON object a line, appended before the leaf is removed. At twice `keep` entries the
file is rewritten with the newest ones (write beside, rename). A torn last line is what
a crash during append leaves: it is dropped.
"""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from ..log import get_logger
from ..types.outcomes import Outcome

__all__ = ["OutcomeStore"]

_log = get_logger(__name__)


class OutcomeStore:
    """The newest `keep` outcomes of the last `keep_hours`."""

    def __init__(self, path: Path, keep: int, keep_hours: float) -> None:
        self._path = path
        self._keep = keep
        self._keep_s = keep_hours * 3600
        self._entries: OrderedDict[str, tuple[str, Outcome]] = OrderedDict()
        self._keys: dict[tuple[str, str], str] = {}
        self._lines = 0
        self._torn = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._load()
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._rewrite_if_long()

    def append(self, outcome: Outcome, key: str) -> None:
        """Durable against a crash of the daemon once this returns.

        A full disk costs the durability, not the call's end.
        """
        self._write(_line(key, outcome).encode(), outcome.call)
        self._remember(outcome, key)
        self._lines += 1
        try:
            self._rewrite_if_long()
        except OSError as error:
            _log.error("cannot rewrite %s: %s", self._path, error.strerror)

    def get(self, call: str) -> Outcome | None:
        entry = self._entries.get(call)
        return entry[1] if entry else None

    def by_key(self, session: str | None, key: str) -> Outcome | None:
        """`session` None: whichever session used this key last."""
        if session is None:
            found = (o for k, o in reversed(self._entries.values()) if k == key)
            return next(found, None)
        call = self._keys.get((session, key))
        return self.get(call) if call else None

    def newest(self, session: str | None, limit: int) -> list[Outcome]:
        """Newest first."""
        found: list[Outcome] = []
        oldest = time.time() - self._keep_s
        for _, outcome in reversed(self._entries.values()):
            if (outcome.ended_epoch_s or 0) < oldest or len(found) >= limit:
                break
            if session is None or outcome.session == session:
                found.append(outcome)
        return found

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, data: bytes, call: str) -> None:
        if self._torn:
            data = b"\n" + data
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            _log.error("cannot keep the outcome of %s in %s: %s", call, self._path, error.strerror)
            return
        self._torn = written != len(data)
        if self._torn:
            _log.error("cannot write the whole outcome of %s to %s", call, self._path)

    def _remember(self, outcome: Outcome, key: str) -> None:
        self._entries[outcome.call] = (key, outcome)
        self._keys[(outcome.session, key)] = outcome.call
        while len(self._entries) > self._keep:
            _, (old_key, old) = self._entries.popitem(last=False)
            if self._keys.get((old.session, old_key)) == old.call:
                del self._keys[(old.session, old_key)]

    def _load(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        lines = data.split(b"\n")
        self._torn = not data.endswith(b"\n") and bool(data)
        bad = 0
        for line in lines:
            if not line:
                continue
            try:
                entry: dict[str, Any] = json.loads(line)
                self._remember(Outcome.model_validate(entry["outcome"]), str(entry["key"]))
            except (ValueError, KeyError, TypeError):
                bad += 1
        self._lines = len(lines)
        if bad:
            _log.warning("%s: %d damaged lines were left out", self._path, bad)
            self._lines = 3 * self._keep

    def _rewrite_if_long(self) -> None:
        if self._lines <= 2 * self._keep:
            return
        beside = self._path.with_suffix(".new")
        beside.unlink(missing_ok=True)
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as out:
            for key, outcome in self._entries.values():
                out.write(_line(key, outcome))
            out.flush()
            os.fsync(out.fileno())
        beside.rename(self._path)
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        os.close(self._fd)
        self._fd = fd
        self._torn = False
        self._lines = len(self._entries)


def _line(key: str, outcome: Outcome) -> str:
    return f'{{"key":{json.dumps(key)},"outcome":{outcome.model_dump_json()}}}\n'
