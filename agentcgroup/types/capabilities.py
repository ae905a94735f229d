# SPDX-License-Identifier: Apache-2.0
"""What the running kernel can do, one fact at a time.

A probe has three answers; only yes and no may be remembered. `yes` means that an
effect was seen, not that a name exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Answer", "Capability"]


class Answer(StrEnum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "could not tell"


@dataclass(frozen=True, slots=True)
class Capability:
    """`reason` says what was seen or what is missing, in words for `doctor`."""

    name: str
    answer: Answer
    reason: str = ""

    def __bool__(self) -> bool:
        return self.answer is Answer.YES
