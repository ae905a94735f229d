# SPDX-License-Identifier: Apache-2.0
"""Messages as the schema allows them, and what becomes of them by mutation."""

from __future__ import annotations

import json
import random
from typing import Any

from agentcgroup.protocol.messages import METHODS

_STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 63, 10**300, 1e308, "", "x", "2GBs", "../..", "\0", "\ud800", "é" * 70,
    "9" * 5000, [], [[]], {}, {"": {}}, [None] * 100, "A", "B", "c1", "c9", "4G", "1e999", "nan",
)  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    "session": "A", "call": "c1", "key": "k", "intent": {"memory": "1G", "timeout_s": 5},
    "step": 1, "prompt_tokens": 1, "completion_tokens": 1, "name": "n", "kinds": ["sample"],
    "exit_code": 0, "shell": False, "labels": {"a": "b"}, "limit": 10,
}  # fmt: skip


def valid(rng: random.Random) -> dict[str, Any]:
    method = rng.choice(list(METHODS.values()))
    fields = method.params.model_fields
    params = {
        name: _DEFAULTS[name]
        for name, field in fields.items()
        if name in _DEFAULTS and (field.is_required() or rng.random() < 0.5)
    }
    return {"jsonrpc": "2.0", "id": rng.randrange(1 << 30), "method": method.name, "params": params}


def mutated(rng: random.Random, message: dict[str, Any]) -> bytes:
    """One line: the message with up to three changes of its fields or its bytes."""
    for _ in range(rng.randrange(3)):
        target = rng.choice([message, message.get("params"), message.get("params")])
        if not isinstance(target, dict):
            continue
        name = rng.choice([*target, "unknown", "pid", "session", "intent", "call"])
        if rng.random() < 0.2:
            target.pop(name, None)
        else:
            target[name] = rng.choice(_STRANGE)
    data = bytearray(json.dumps(message).encode())
    change = rng.random()
    if change < 0.15:
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif change < 0.2:
        del data[rng.randrange(len(data)) :]
    elif change < 0.25:
        depth = rng.choice([10, 900, 5000, 100_000])
        data = bytearray(b'{"jsonrpc":"2.0","id":1,"method":"tool.begin","params":{"key":')
        data += rng.choice([b"[", b'{"a":']) * depth
    elif change < 0.28:
        data = bytearray(rng.randbytes(rng.randrange(3000)))
    return bytes(data).replace(b"\n", b" ") + b"\n"
