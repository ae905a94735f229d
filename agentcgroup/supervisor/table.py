# SPDX-License-Identifier: Apache-2.0
"""Runs as the matrix that training needs: a row a step before the last, where a stop counts.

Weights: a failed run's step counts by the energy that a stop after it would save (relative to
the mean), a success's step by one. Where saving is the aim and false stops are bounded, the
best region is a level set of this ratio (Neyman and Pearson). Needs numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .evaluation import success_of
from .features import FeatureSet, Row, rows_of
from .trajectories import Run

__all__ = ["Table", "table_of"]


@dataclass(frozen=True, slots=True)
class Table:
    """`rows[run][step]`: every step's features. `fails`: per run."""

    features: FeatureSet
    runs: tuple[Run, ...]
    rows: tuple[tuple[Row, ...], ...]
    fails: npt.NDArray[np.bool_]

    def subset(self, chosen: Sequence[int]) -> Table:
        return Table(
            self.features,
            tuple(self.runs[index] for index in chosen),
            tuple(self.rows[index] for index in chosen),
            self.fails[list(chosen)],
        )

    def member(
        self, member: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Features, labels and weights of the rows that predictor `member` learns from."""
        found, labels, weights = [], [], []
        for run, rows, fails in zip(self.runs, self.rows, self.fails, strict=True):
            for step, row in enumerate(rows[:-1]):
                if self.features.member(step) == member and row:
                    found.append(row)
                    labels.append(bool(fails))
                    weights.append(_after(run, step) if fails else 1.0)
        width = len(self.features.names[member])
        label = np.array(labels, dtype=np.bool_)
        weight = np.array(weights, dtype=np.float64)
        if label.any() and weight[label].mean() > 0:
            weight[label] /= weight[label].mean()
        return np.array(found, dtype=np.float64).reshape(-1, width), label, weight


def table_of(runs: Sequence[Run], features: FeatureSet) -> Table:
    """FormatError names a run without a label."""
    return Table(
        features,
        tuple(runs),
        tuple(tuple(rows_of(features, run.steps)) for run in runs),
        np.array([not success_of(run) for run in runs], dtype=np.bool_),
    )


def _after(run: Run, step: int) -> float:
    """What a stop after `step` saves: joules if all are known, else steps."""
    energies = run.step_energy_j[step + 1 :]
    known = [energy for energy in energies if energy is not None]
    return sum(known) if len(known) == len(energies) else float(len(energies))
