# SPDX-License-Identifier: Apache-2.0
"""What a model says about a command's needs, in the places where it can say it.

    pytest -q  # agentcgroup: memory=2G timeout=10m
    AGENTCGROUP_INTENT='memory=2G cpu=2' pytest -q
    AGENT_RESOURCE_HINT=memory:high pytest -q

The comment wins over the variables, AGENTCGROUP_INTENT over the coarser hint (AgentCgroup,
arXiv 2602.09345, section 6), a command over the environment it starts in. Pure, and
standard library only: hooks run before every command of an agent. Values are checked by
who uses them, against the Intent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import InvalidValueError

__all__ = ["FREE", "HINT_VARIABLE", "INTENT_VARIABLE", "parse_hint", "parse_pairs", "wishes_for"]

INTENT_VARIABLE = "AGENTCGROUP_INTENT"
HINT_VARIABLE = "AGENT_RESOURCE_HINT"
# Stands for a size that only the daemon knows: what is free in the session now.
FREE = "free"

_COMMENT = re.compile(r"(?:^|\s)#\s*agentcgroup:[ \t]*([^\r\n]*)", re.M)
_ASSIGNMENT = re.compile(
    rf"(?<![\w$])({INTENT_VARIABLE}|{HINT_VARIABLE})=('[^']*'|\"[^\"]*\"|[^\s;&|<>()]*)"
)
_HINT = re.compile(r"memory:(low|medium|high|[0-9]+(?:\.[0-9]+)?[kmg])", re.I)
_HINTED = {"low": "256M", "medium": "1G", "high": FREE}
_SHORT = {"duration": "duration_s", "timeout": "timeout_s", "max_wait": "max_wait_s"}
_FIELDS = frozenset(
    {"memory", "memory_max", "swap_max", "cpu", "cpu_max", "pids_max", "io_weight", "latency",
     "duration_s", "timeout_s", "on_exceed", "max_wait_s", "background", "label", "retry_of"}
)  # fmt: skip


def wishes_for(command: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Fields of the intent as text; empty when nothing was said.

    Raises InvalidValueError that names the place where it was said.
    """
    comment = _COMMENT.search(command)
    if comment is not None:
        return parse_pairs(comment[1], "# agentcgroup:")
    said = {match[1]: match[2].strip("'\"") for match in _ASSIGNMENT.finditer(command)}
    for place in (said, environment):
        if place.get(INTENT_VARIABLE):
            return parse_pairs(place[INTENT_VARIABLE], INTENT_VARIABLE)
        if place.get(HINT_VARIABLE):
            return parse_hint(place[HINT_VARIABLE])
    return {}


def parse_pairs(text: str, place: str) -> dict[str, str]:
    """`memory=2G timeout=10m`, with spaces, commas or semicolons in between."""
    wishes: dict[str, str] = {}
    for word in re.split(r"[\s,;]+", text.strip()):
        if not word:
            continue
        name, equals, value = word.partition("=")
        name = name.strip("-").replace("-", "_")
        name = _SHORT.get(name, name)
        if not equals or not value:
            raise InvalidValueError(place, word, "write pairs such as memory=2G timeout=10m")
        if name not in _FIELDS:
            known = ", ".join(sorted(_FIELDS))
            raise InvalidValueError(place, word, f"there is no such field; known here: {known}")
        wishes[name] = value
    return wishes


def parse_hint(text: str) -> dict[str, str]:
    """`memory:low` (256M), `memory:medium` (1G), `memory:high` (all that is free), `memory:3g`."""
    match = _HINT.fullmatch(text.strip())
    if match is None:
        raise InvalidValueError(
            HINT_VARIABLE, text, "write memory:low, memory:medium, memory:high or memory:<n>g"
        )
    said = match[1].lower()
    return {"memory": _HINTED.get(said, said)}
