# SPDX-License-Identifier: Apache-2.0
"""The feature sets by name. One extractor per run, the same in training and in the daemon.

A set's version rises whenever a number it gives could change: a model made for another one
is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import InvalidValueError
from ..types.steps import StepReport
from .full_features import FULL_NAMES, FullExtractor
from .paper_features import PAPER_STEPS, PaperExtractor, paper_names
from .signals import HostSignals

__all__ = ["FEATURE_SETS", "Extractor", "FeatureSet", "Row", "feature_set", "rows_of"]

Row = tuple[float, ...]


class Extractor(Protocol):
    def update(self, report: StepReport, host: HostSignals | None = None) -> Row:
        """Features at this step, () if the set has none here. InvalidValueError for figures
        of no use; nothing of that step is kept then."""
        ...


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """`names`: for each predictor of the set; a single one serves every step."""

    name: str
    version: int
    names: tuple[tuple[str, ...], ...]
    extractor: Callable[[], Extractor]

    @property
    def one_per_step(self) -> bool:
        return len(self.names) > 1

    def member(self, step: int) -> int | None:
        """Which predictor scores `step` (from 0); None after the last one."""
        if not self.one_per_step:
            return 0
        return step if step < len(self.names) else None


FEATURE_SETS = {
    "full": FeatureSet("full", 1, (FULL_NAMES,), FullExtractor),
    "paper": FeatureSet(
        "paper", 1, tuple(paper_names(step) for step in range(PAPER_STEPS)), PaperExtractor
    ),
}


def feature_set(name: str) -> FeatureSet:
    found = FEATURE_SETS.get(name)
    if found is None:
        known = ", ".join(sorted(FEATURE_SETS))
        raise InvalidValueError("features", name, f"known feature sets: {known}")
    return found


def rows_of(
    features: FeatureSet,
    steps: Sequence[StepReport],
    host: Sequence[HostSignals | None] | None = None,
) -> list[Row]:
    """Features of every step of one run."""
    extractor = features.extractor()
    seen = host if host is not None else [None] * len(steps)
    return [extractor.update(step, signals) for step, signals in zip(steps, seen, strict=True)]
