# SPDX-License-Identifier: Apache-2.0
"""The base of every model that outside data is parsed into, and its one error.

Unknown fields are refused by name; the first problem becomes an InvalidValueError
with field, value and remedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import InvalidValueError

__all__ = ["WireModel", "parse"]


class WireModel(BaseModel):
    """Frozen, strict about names: what a client, a file or an agent sent."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


M = TypeVar("M", bound=BaseModel)


def parse(
    model: type[M],
    data: object,
    prefix: str = "",
    error: type[InvalidValueError] = InvalidValueError,
) -> M:
    """`data` as `model`; raises `error` that names the field below `prefix`."""
    if not isinstance(data, Mapping):
        raise error(prefix or "params", data, "send an object with named fields")
    try:
        return model.model_validate(data)
    except ValidationError as failure:
        first: Any = failure.errors(include_url=False)[0]
        loc = ([prefix] if prefix else []) + [str(part) for part in first["loc"]]
        value = first.get("input")
        cause = (first.get("ctx") or {}).get("error")
        if isinstance(cause, InvalidValueError) and first["type"] == "value_error":
            inner = _model_at(model, first["loc"])
            if cause.field in inner.model_fields and [cause.field] != loc[-1:]:
                loc.append(cause.field)
            value = cause.value
        raise error(".".join(loc) or "params", value, _remedy(model, first)) from None


def _remedy(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    kind = problem["type"]
    if kind == "extra_forbidden":
        known = ", ".join(sorted(_model_at(model, problem["loc"][:-1]).model_fields))
        return f"there is no such field; known here: {known}"
    cause = (problem.get("ctx") or {}).get("error")
    if isinstance(cause, InvalidValueError):
        return cause.remedy
    if kind == "missing":
        return "this field is required"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "send an object with named fields"
    text = str(problem["msg"]).removeprefix("Input ").removeprefix("String ")
    return text.replace("should ", "must ", 1)


def _model_at(model: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel]:
    """The innermost model on the way to `path`."""
    for part in path:
        info = model.model_fields.get(part) if isinstance(part, str) else None
        said = info.annotation if info else None
        inner = next((m for m in (said, *get_args(said)) if _is_model(m)), None)
        if inner is None:
            break
        model = inner
    return model


def _is_model(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, BaseModel)
