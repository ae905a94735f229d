# SPDX-License-Identifier: Apache-2.0
"""A predictor's arithmetic: boosted trees and linear terms as plain arrays, no library.

For trees it is that of xgboost's predictor (float32 features, thresholds, leaves and running
sum; smaller goes left; unknown goes where the tree says), so the margin is the same number.
A linear term of an unknown feature adds nothing, as if the feature had its mean.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from ..errors import InvalidValueError
from ..types.validation import WireModel

__all__ = ["Ensemble", "LinearTerm", "Tree", "probability"]

LEAF = -1
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Tree(WireModel):
    """Node 0 is the root; `feature` is LEAF where `value` counts. Children come after parents."""

    feature: tuple[Annotated[int, Field(ge=LEAF)], ...]
    threshold: tuple[Finite, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    unknown_left: tuple[bool, ...]
    value: tuple[Finite, ...]

    @model_validator(mode="after")
    def _whole(self) -> Tree:
        size = len(self.feature)
        arrays = (self.threshold, self.left, self.right, self.unknown_left, self.value)
        if not size or any(len(other) != size for other in arrays):
            raise InvalidValueError("feature", size, "all arrays of a tree must be equally long")
        for node, feature in enumerate(self.feature):
            for child in (self.left[node], self.right[node]):
                if feature != LEAF and not node < child < size:
                    raise InvalidValueError("left", child, "children must come after their parent")
        return self

    def path(self, row: Sequence[float]) -> list[int]:
        """Nodes from the root to the leaf that `row` (float32) ends in."""
        node, nodes = 0, [0]
        while (feature := self.feature[node]) != LEAF:
            value = row[feature]
            left = self.unknown_left[node] if math.isnan(value) else value < self.threshold[node]
            node = self.left[node] if left else self.right[node]
            nodes.append(node)
        return nodes

    def leaf(self, row: Sequence[float]) -> float:
        """Value of the leaf that `row` (float32) ends in."""
        features, isnan, node = self.feature, math.isnan, 0
        while (feature := features[node]) != LEAF:
            value = row[feature]
            if value < self.threshold[node] or (self.unknown_left[node] and isnan(value)):
                node = self.left[node]
            else:
                node = self.right[node]
        return self.value[node]


class LinearTerm(WireModel):
    """`weight` log-odds for each `scale` that the feature is above `mean`."""

    feature: Annotated[int, Field(ge=0)]
    mean: Finite
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    weight: Finite

    def added(self, row: Sequence[float]) -> float:
        value = row[self.feature]
        return 0.0 if math.isnan(value) else self.weight * (value - self.mean) / self.scale


class Ensemble(WireModel):
    """Leaves and linear terms that add up to the log-odds of failure."""

    base_margin: Finite
    trees: tuple[Tree, ...] = ()
    linear: tuple[LinearTerm, ...] = ()

    def margin(self, row: Sequence[float]) -> float:
        narrow = array("f", row)
        total = array("f", (self.base_margin,))
        for tree in self.trees:
            total[0] += tree.leaf(narrow)
        return total[0] + math.fsum(term.added(row) for term in self.linear)

    def highest_feature(self) -> int:
        """Number of the highest feature used; -1 if none is."""
        used = [term.feature for term in self.linear]
        return max([*used, *(max(tree.feature) for tree in self.trees)], default=LEAF)

    def contributions(self, row: Sequence[float]) -> dict[int, float]:
        """Log-odds each feature adds for `row`: of trees by the change of the expected leaf
        along the path (Saabas 2014)."""
        narrow = array("f", row)
        found: dict[int, float] = {}
        for term in self.linear:
            found[term.feature] = found.get(term.feature, 0.0) + term.added(row)
        for tree in self.trees:
            expected = _expected(tree)
            for parent, child in pairwise(tree.path(narrow)):
                feature = tree.feature[parent]
                found[feature] = found.get(feature, 0.0) + expected[child] - expected[parent]
        return found


def _expected(tree: Tree) -> list[float]:
    """Mean leaf below each node, every branch counted alike (the file holds no covers)."""
    means = list(tree.value)
    for node in range(len(means) - 1, -1, -1):
        if tree.feature[node] != LEAF:
            means[node] = (means[tree.left[node]] + means[tree.right[node]]) / 2
    return means


def probability(margin: float) -> float:
    """Of failure, from log-odds; stable for any size."""
    if margin >= 0:
        return 1.0 / (1.0 + math.exp(-margin))
    odds = math.exp(margin)
    return odds / (1.0 + odds)
