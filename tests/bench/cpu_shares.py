# SPDX-License-Identifier: Apache-2.0
"""CPU weights: what each leaf of a saturated tree gets, against its ideal share.

Runs inside a guest with sched_ext and two CPUs (or a host like it). Two spinners in every leaf;
shares are of the CPU time that all leaves used, by cpu.stat. A run's error is that of its worst
leaf, in percentage points. Every round measures every tree under EEVDF and under sched_ext.

    flat           100 : 200 : 300
    nested         A{B, C} 100 with B = C, beside D 200
    nested_1_3     the same with B : C = 1 : 3
    tree-N         random, three levels deep, random weights; the row `trees` is the worst of them

    python cpu_shares.py [--rounds 5] [--seconds 10] [--trees 20] [--only 'flat,nested*']
                         [--json FILE] [--check]

Prints one JSON object.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Mapping
from typing import Any

from cpu_common import (
    CPUS,
    Arena,
    bounded,
    finish,
    idle_s,
    interleaved,
    options_parser,
    program,
    selected,
    spread,
    used_cpu_s,
)

# Path to cpu.weight; parents come first.
Tree = Mapping[str, int]

FLAT: Tree = {"a": 100, "b": 200, "c": 300}
NESTED: Tree = {"a": 100, "a/b": 100, "a/c": 100, "d": 200}
NESTED_1_3: Tree = {"a": 100, "a/b": 100, "a/c": 300, "d": 200}
SHAPES = {"flat": FLAT, "nested": NESTED, "nested_1_3": NESTED_1_3}
BOUNDS_POINTS = {"flat": 0.5, "nested": 1.0, "nested_1_3": 1.0, "trees": 2.0}
SPINNERS = 2
DEPTH = 3
WEIGHTS = (25, 1000)


def main() -> int:
    options = arguments()
    trees = {
        f"tree-{number}": random_tree(options.seed + number) for number in range(options.trees)
    }
    chosen = selected(SHAPES | trees, options.only)
    with program("load") as load:
        runs = interleaved(
            options,
            lambda _daemon: {
                name: measure(tree, load, options.seconds) for name, tree in chosen.items()
            },
        )
    rows = [
        summary(name, under, [run[name] for run in measured])
        for name in chosen
        for under, measured in runs.items()
    ]
    worst = [worst_tree(under, rows) for under in runs if any(name in trees for name in chosen)]
    for row in [*rows, *worst]:
        if row["tree"] in BOUNDS_POINTS:
            bounded(row, "error_points", at_most=BOUNDS_POINTS[row["tree"]])
    return finish(options, rows + worst)


# --- trees


def leaves(tree: Tree) -> list[str]:
    return [path for path in tree if not any(other.startswith(f"{path}/") for other in tree)]


def ideal_share(tree: Tree, leaf: str) -> float:
    """Of what the whole tree gets, with work for every CPU in every leaf."""
    share, parts = 1.0, leaf.split("/")
    for level in range(len(parts)):
        path = "/".join(parts[: level + 1])
        parent, _, _ = path.rpartition("/")
        siblings = sum(w for other, w in tree.items() if other.rpartition("/")[0] == parent)
        share *= tree[path] / siblings
    return share


def random_tree(seed: int) -> Tree:
    """Two or three children a cgroup, some of them leaves before the last level."""
    draw, tree = random.Random(seed), dict[str, int]()

    def grow(parent: str, level: int) -> None:
        children = [f"{parent}{name}" for name in "abc"[: draw.choice((2, 3))]]
        for child in children:
            tree[child] = round(math.exp(draw.uniform(*map(math.log, WEIGHTS))))
        # At least one goes on, so that the tree is as deep as it should be.
        for number, child in enumerate(children):
            if level < DEPTH and (number == 0 or draw.random() < 0.5):
                grow(f"{child}/", level + 1)

    grow("", 1)
    return tree


# --- measuring


def measure(tree: Tree, load: str, window_s: float, warm_up_s: float = 1.0) -> dict[str, Any]:
    """By leaf: CPU time used and the error of its share, in percentage points."""
    with Arena() as arena:
        places = {path: arena.make(path, {"cpu.weight": weight}) for path, weight in tree.items()}
        names = leaves(tree)
        for name in names:
            arena.start(places[name], [load, "spin"], SPINNERS)
        idle_before_s = idle_s()
        used_s, took_s = used_cpu_s([places[name] for name in names], window_s, warm_up_s)
        stood_idle_s = idle_s() - idle_before_s
    total_s = sum(used_s)
    return {
        "used_s": dict(zip(names, used_s, strict=True)),
        "took_s": took_s,
        "busy": total_s / (took_s * CPUS),
        "idle": stood_idle_s / ((warm_up_s + took_s) * CPUS),
        "error_points": {
            name: 100 * (used / total_s - ideal_share(tree, name))
            for name, used in zip(names, used_s, strict=True)
        },
    }


def worst_error(run: dict[str, Any]) -> float:
    return max(abs(float(error)) for error in run["error_points"].values())


def summary(name: str, under: str, measured: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tree": name,
        "scheduler": under,
        "leaves": len(measured[0]["used_s"]),
        "error_points": spread([worst_error(run) for run in measured]),
        "busy": spread([run["busy"] for run in measured]),
    }


def worst_tree(under: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The random tree with the largest median error."""
    ours = [r for r in rows if r["scheduler"] == under and r["tree"].startswith("tree-")]
    worst = max(ours, key=lambda row: float(row["error_points"]["median"]))
    medians = spread([row["error_points"]["median"] for row in ours])
    return {
        "tree": "trees", "scheduler": under, "worst": worst["tree"], "trees": len(ours),
        "error_points": worst["error_points"], "over_the_trees": medians,
    }  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = options_parser("CPU shares against the ideal ones.")
    parser.add_argument("--seconds", type=float, default=10.0, help="a run's window")
    parser.add_argument("--trees", type=int, default=20)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
