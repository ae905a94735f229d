# SPDX-License-Identifier: Apache-2.0
"""Candidates of a predictor and how each is fitted. Needs numpy, scikit-learn and xgboost.

hazard: discrete-time hazard model: logistic regression over all steps, energy-weighted.
trees: boosted trees over all steps, energy-weighted.
paper: AgentStop's classifier of one step, with a random search over its published ranges.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .full_features import FULL_NAMES
from .table import Table
from .trees import LEAF, Ensemble, LinearTerm, Tree

__all__ = ["FULL_CANDIDATES", "Candidate", "fit", "paper_candidates"]

_RATES = ("step", "prompt_mean", "completion_mean", "growth_mean")
_TOOLS = ("tool_calls", "tool_entropy", "tool_unchanged_in_a_row")
_SPENDING = FULL_NAMES[: FULL_NAMES.index("seen_share")]
_FEWEST_ROWS = 2
_STEADY: dict[str, Any] = {"objective": "binary:logistic", "tree_method": "hist", "nthread": 1,
                           "base_score": 0.5}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidate:
    """`columns`: features it may use, () all. `weighted`: by the energy a stop saves."""

    name: str
    kind: str
    columns: tuple[str, ...] = ()
    weighted: bool = True
    parameters: dict[str, float] = field(default_factory=dict)


def _hazard(name: str, columns: tuple[str, ...], inverse_penalty: float) -> Candidate:
    return Candidate(
        f"hazard-{name}-{inverse_penalty:g}", "hazard", columns, True, {"C": inverse_penalty}
    )


FULL_CANDIDATES = (
    _hazard("rates", _RATES, 0.01),
    _hazard("rates", _RATES, 0.03),
    _hazard("rates-tools", _RATES + _TOOLS, 0.01),
    _hazard("rates-tools", _RATES + _TOOLS, 0.03),
    _hazard("all", (), 0.01),
    _hazard("all", (), 0.03),
    Candidate(
        "trees-spending", "trees", _SPENDING, True,
        {"max_depth": 2, "eta": 0.1, "subsample": 0.7, "min_child_weight": 10, "trees": 60},
    ),
)  # fmt: skip


def paper_candidates(draws: int, seed: int) -> list[Candidate]:
    """Draws from the ranges that AgentStop searches."""
    dice = np.random.default_rng(seed)
    found = []
    for number in range(draws):
        parameters = {
            "max_depth": int(dice.integers(3, 8)),
            "eta": float(math.exp(dice.uniform(math.log(0.005), math.log(0.2)))),
            "min_child_weight": int(dice.integers(1, 8)),
            "subsample": float(dice.uniform(0.7, 1.0)),
            "colsample_bytree": float(dice.uniform(0.7, 1.0)),
            "gamma": float(dice.uniform(0.0, 5.0)),
            "trees": int(dice.integers(50, 301)),
        }
        found.append(Candidate(f"paper-{number}", "trees", (), False, parameters))
    return found


def fit(table: Table, member: int, candidate: Candidate, seed: int) -> Ensemble:
    """The predictor of `member`; the base rate alone where there is too little to learn."""
    rows, fails, weights = table.member(member)
    if not candidate.weighted:
        weights = np.ones_like(weights)
    if min(int(fails.sum()), int((~fails).sum())) < _FEWEST_ROWS:
        share = (float(fails.sum()) + 1) / (len(fails) + 2)
        return Ensemble(base_margin=_narrow(math.log(share / (1 - share))))
    names = table.features.names[member]
    wanted = candidate.columns or names
    columns = [names.index(name) for name in wanted]
    columns = [column for column in columns if _varies(rows[:, column])]
    make = _fit_hazard if candidate.kind == "hazard" else _fit_trees
    return make(rows, fails, weights, columns, candidate.parameters, seed)


def _varies(column: npt.NDArray[np.float64]) -> bool:
    known = column[~np.isnan(column)]
    return bool(known.size and known.min() < known.max())


def _fit_hazard(
    rows: npt.NDArray[np.float64],
    fails: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.float64],
    columns: Sequence[int],
    parameters: dict[str, float],
    seed: int,
) -> Ensemble:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    chosen = rows[:, columns]
    means = np.nanmean(chosen, axis=0)
    scales = np.nanstd(chosen, axis=0)
    standard = np.nan_to_num((chosen - means) / scales, nan=0.0)
    model = LogisticRegression(C=parameters["C"], max_iter=2000, random_state=seed)
    model.fit(standard, fails, sample_weight=weights)
    terms = zip(columns, means, scales, model.coef_[0], strict=True)
    return Ensemble(
        base_margin=_narrow(float(model.intercept_[0])),
        linear=tuple(
            LinearTerm(feature=column, mean=float(mean), scale=float(scale), weight=float(weight))
            for column, mean, scale, weight in terms
        ),
    )


def _fit_trees(
    rows: npt.NDArray[np.float64],
    fails: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.float64],
    columns: Sequence[int],
    parameters: dict[str, float],
    seed: int,
) -> Ensemble:
    import xgboost  # noqa: PLC0415

    matrix = xgboost.DMatrix(
        rows[:, columns].astype(np.float32), label=fails, weight=weights, nthread=1
    )
    grown = {name: value for name, value in parameters.items() if name != "trees"}
    booster = xgboost.train(
        _STEADY | grown | {"seed": seed}, matrix, num_boost_round=int(parameters["trees"])
    )
    return ensemble_of(booster, columns)


def ensemble_of(booster: Any, columns: Sequence[int]) -> Ensemble:
    """xgboost's model (base score 0.5, so margin 0) as plain arrays; `columns` names its
    features' places in ours."""
    model = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]
    return Ensemble(base_margin=0.0, trees=tuple(_tree(raw, columns) for raw in model["trees"]))


def _tree(raw: dict[str, Any], columns: Sequence[int]) -> Tree:
    leaves = [child < 0 for child in raw["left_children"]]
    numbers = [_narrow(value) for value in raw["split_conditions"]]
    return Tree(
        feature=tuple(
            LEAF if leaf else columns[index]
            for leaf, index in zip(leaves, raw["split_indices"], strict=True)
        ),
        threshold=tuple(0.0 if leaf else n for leaf, n in zip(leaves, numbers, strict=True)),
        left=tuple(raw["left_children"]),
        right=tuple(raw["right_children"]),
        unknown_left=tuple(bool(left) for left in raw["default_left"]),
        value=tuple(n if leaf else 0.0 for leaf, n in zip(leaves, numbers, strict=True)),
    )


def _narrow(value: float) -> float:
    """As the float32 that scoring uses."""
    return float(np.float32(value))
