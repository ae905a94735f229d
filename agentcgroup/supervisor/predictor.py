# SPDX-License-Identifier: Apache-2.0
"""A trained predictor: one JSON file, no pickle, since a root daemon reads it.

The file says what it was made from and for, what its threshold promises, and carries a
checksum over everything else. What does not fit this program is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ..errors import FormatError, InvalidValueError
from ..types.steps import StepReport
from ..types.validation import WireModel, parse
from .calibration import Bound, Calibration
from .decision import DecisionRule
from .features import FEATURE_SETS, FeatureSet, Row, feature_set, rows_of
from .trees import Ensemble, probability

__all__ = [
    "CalibrationNote",
    "DataNote",
    "FeatureNote",
    "Predictor",
    "load",
    "save",
    "shipped_models",
]

SCHEMA = 1
MAX_FILE_BYTES = 64 << 20
_SHIPPED = Path(__file__).parent / "models"
Share = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class FeatureNote(WireModel):
    set: str
    version: int
    names: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, features: FeatureSet) -> Self:
        return cls(set=features.name, version=features.version, names=features.names)


class CalibrationNote(WireModel):
    """What the threshold rests on; as Calibration. `method`: where the scores came from."""

    bound: Bound
    max_drop: Share
    confidence: Share | None = None
    n_success: Annotated[int, Field(ge=0)]
    false_stops: Annotated[int, Field(ge=0)]
    drop_bound: Share
    certified: bool
    reason: str = ""
    method: str = ""

    @classmethod
    def of(cls, made: Calibration, method: str) -> Self:
        return cls(
            bound=made.bound, max_drop=made.max_drop, confidence=made.confidence,
            n_success=made.n_success, false_stops=made.false_stops,
            drop_bound=made.drop_bound, certified=made.certified, reason=made.reason,
            method=method,
        )  # fmt: skip


class DataNote(WireModel):
    """`run_marks`: a few hex digits for each run used for fitting, so that calibration on
    one of them can be refused. `answer_charge_j`: median energy of a forced last step."""

    sha256: str
    n_runs: int
    n_success: int
    run_marks: tuple[str, ...] = ()
    answer_charge_j: Finite | None = None


class Predictor(WireModel):
    kind: Literal["agentcgroup-supervisor"] = "agentcgroup-supervisor"
    schema_version: Literal[1] = 1
    name: Annotated[str, Field(max_length=128)] = ""
    population: str
    observe_only: bool = False
    features: FeatureNote
    rule: DecisionRule
    calibration: CalibrationNote
    data: DataNote
    training: dict[str, Any] = {}
    ensembles: tuple[Ensemble, ...]

    @model_validator(mode="after")
    def _fits(self) -> Predictor:
        told = self.features
        known = FEATURE_SETS.get(told.set)
        if known is None:
            sets = ", ".join(sorted(FEATURE_SETS))
            raise InvalidValueError("features", f"set {told.set}", f"known sets: {sets}")
        if told.version != known.version:
            raise InvalidValueError(
                "features", f"version {told.version} of {known.name}",
                f"this program has version {known.version}: train again",
            )  # fmt: skip
        if told.names != known.names:
            raise InvalidValueError(
                "features", "other names", f"they must be those of {known.name}: train again"
            )
        if len(self.ensembles) != len(known.names):
            raise InvalidValueError(
                "ensembles", len(self.ensembles), f"{known.name} needs {len(known.names)}"
            )
        for number, (ensemble, names) in enumerate(zip(self.ensembles, known.names, strict=True)):
            if ensemble.highest_feature() >= len(names):
                raise InvalidValueError(
                    "ensembles", f"feature {ensemble.highest_feature()} in number {number}",
                    f"features are numbered below {len(names)}",
                )  # fmt: skip
        return self

    @property
    def feature_set(self) -> FeatureSet:
        return feature_set(self.features.set)

    def score(self, step: int, row: Row) -> float | None:
        """0 to 1: how likely a run which looks like this at `step` fails, weighted by what a
        stop would save; None: no predictor for this step."""
        member = self.feature_set.member(step)
        if member is None or not row:
            return None
        return probability(self.ensembles[member].margin(row))

    def scores(self, steps: Sequence[StepReport]) -> list[float | None]:
        """Score of every step of a run."""
        rows = rows_of(self.feature_set, steps)
        return [self.score(step, row) for step, row in enumerate(rows)]

    def why(self, step: int, row: Row) -> list[tuple[str, float, float]]:
        """(feature, its value, log-odds it adds), the strongest first."""
        member = self.feature_set.member(step)
        if member is None or not row:
            return []
        names = self.features.names[member]
        added = self.ensembles[member].contributions(row)
        told = [(names[index], row[index], value) for index, value in added.items()]
        return sorted(told, key=lambda entry: (-abs(entry[2]), entry[0]))


def save(predictor: Predictor, path: Path) -> None:
    """Write the file whole or not at all."""
    body = predictor.model_dump(mode="json")
    body["checksum"] = _checksum(body)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(body, separators=(",", ":")) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InvalidValueError("--out", str(path), error.strerror or "cannot write") from None


def shipped_models() -> dict[str, Path]:
    """Models that come with this package, by name: for observe only (docs/supervisor.md)."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.json"))}


def load(name: str | Path) -> Predictor:
    """The predictor in a file, or a shipped one by its name; FormatError names what does not
    fit."""
    path = shipped_models().get(str(name), Path(name))
    where = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        known = ", ".join(shipped_models())
        raise FormatError(
            where, error.strerror, f"name a model file that can be read, or one of: {known}"
        ) from None
    if len(raw) > MAX_FILE_BYTES:
        raise FormatError(where, f"{len(raw)} bytes", f"at most {MAX_FILE_BYTES} bytes")
    try:
        body = json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(where, str(error), "a whole JSON file of `supervisor train`") from None
    if not isinstance(body, dict) or body.get("kind") != "agentcgroup-supervisor":
        raise FormatError(f"{where}: kind", "another file", "name a file of `supervisor train`")
    if body.get("schema_version") != SCHEMA:
        raise FormatError(
            f"{where}: schema_version", body.get("schema_version"), f"this program reads {SCHEMA}"
        )
    told = body.pop("checksum", None)
    if told != _checksum(body):
        raise FormatError(
            f"{where}: checksum", told, "the file was changed or cut after it was written"
        )
    return parse(Predictor, body, where, FormatError)


def _checksum(body: dict[str, Any]) -> str:
    plain = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(plain.encode()).hexdigest()


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number a model may hold")


def finite_threshold(threshold: float) -> float | None:
    """As the file holds it: None where nothing is ever stopped."""
    return None if threshold == math.inf else max(threshold, 0.0)
