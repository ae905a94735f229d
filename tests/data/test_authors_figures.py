# SPDX-License-Identifier: Apache-2.0
"""`trace analyze --as-authors` against the values that the authors' own scripts print.

AGENTCGROUP_DATA holds agentcgroup-traces with reference_values.json (or is that directory).
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentcgroup.cli.trace import app

pytestmark = pytest.mark.data


def package() -> Path:
    root = Path(os.environ["AGENTCGROUP_DATA"])
    return root / "agentcgroup-traces" if (root / "agentcgroup-traces").is_dir() else root


def leaves(value: Any, where: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key in value for k, v in leaves(value[key], f"{where}.{key}").items()}
    if isinstance(value, list):
        parts = (leaves(item, f"{where}[{i}]") for i, item in enumerate(value))
        return {k: v for part in parts for k, v in part.items()}
    return {where: value}


def test_every_reference_value_is_reproduced(tmp_path: Path) -> None:
    out = tmp_path / "o.json"
    done = CliRunner().invoke(app, ["analyze", str(package()), "--as-authors", "--json", str(out)])
    assert done.exit_code == 0, done.output
    reference = json.loads((package() / "reference_values.json").read_text())["dev"]
    wanted, got = leaves(reference), leaves(json.loads(out.read_text()))
    assert len(wanted) > 900
    assert wanted.keys() - got.keys() == set()
    wrong = {
        name: (value, got[name])
        for name, value in wanted.items()
        if not (
            math.isclose(value, got[name], rel_tol=1e-6, abs_tol=1e-9)
            if isinstance(value, int | float)
            else value == got[name]
        )
    }
    assert wrong == {}


def test_corrected_column(tmp_path: Path) -> None:
    """What a right parser and a differenced CPU give: printed beside the paper's column."""
    out = tmp_path / "o.json"
    done = CliRunner().invoke(app, ["analyze", str(package()), "--json", str(out)])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())["sets"]

    def corrected(set_name: str, table: str, quantity: str) -> float:
        rows = found[set_name][table]["rows"]
        return next(float(r["corrected"]) for r in rows if r["quantity"] == quantity)

    gain = corrected("all", "concurrency_sim", "simulation.64.stat_mux_gain")
    assert gain == pytest.approx(1.42, abs=0.005)
    assert corrected("all_images_haiku", "cpu_mem_corr", "avg") == pytest.approx(0.27, abs=0.02)
    assert corrected("all_images_local", "cpu_mem_corr", "avg") == pytest.approx(0.25, abs=0.02)
    for name in ("all_images_haiku", "all_images_local"):
        assert corrected(name, "retry_same_command", "tasks_with_repeats") == 0
