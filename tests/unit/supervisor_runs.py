# SPDX-License-Identifier: Apache-2.0
"""Made-up runs of an agent: some answer soon, some repeat themselves until a cap."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

CAP = 11


def made_up_runs(count: int = 120, seed: int = 0) -> list[dict[str, Any]]:
    """In the file's format. A fifth succeed; loops take longer prompts and mostly fail."""
    dice = random.Random(seed)
    return [_run(number, dice) for number in range(count)]


def write_runs(path: Path, runs: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(run) + "\n" for run in runs)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def _run(number: int, dice: random.Random) -> dict[str, Any]:
    loops = dice.random() < 0.5
    success = dice.random() < (0.04 if loops else 0.4)
    length = CAP if loops else dice.randint(1, 4)
    size = dice.randint(20, 40) if loops else dice.randint(8, 24)
    steps = [_step(at, loops, size, dice) for at in range(length)]
    return {
        "id": f"made-up-{number:04d}",
        "success": success,
        "answerable_without_agent": number % 12 == 11,
        "agent_answer": "42",
        "reference_answer": "42" if success else "43",
        "total_energy_mwh": 1.1 * sum(step["energy_mwh"] for step in steps),
        "steps": steps,
    }


def _step(at: int, loops: bool, size: int, dice: random.Random) -> dict[str, Any]:
    words = ["Thought", ":", *(f" w{dice.randint(0, 500)}" for _ in range(size))]
    if loops and at:
        words = ["Thought", ":", *(f" again{place}" for place in range(size))]
    tokens = [*words, "<code", ">\\n", "web_search", "(", "x", ")", "</code>"]
    return {
        "step": at,
        "prompt_tokens": 2000.0 + 30 * size * at,
        "completion_tokens": float(len(tokens)),
        "energy_mwh": 5.0 + 0.2 * size,
        "logprobs": [-dice.random() * (0.4 if loops else 0.6) for _ in tokens],
        "tokens": tokens,
    }
