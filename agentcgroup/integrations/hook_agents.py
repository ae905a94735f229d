# SPDX-License-Identifier: Apache-2.0
"""What differs between the agent CLIs whose hooks we know.

Claude Code: https://code.claude.com/docs/en/hooks (settings.json; a rewrite without a
permission decision goes through the user's permissions as usual; a failed command has an
event of its own). Codex: https://developers.openai.com/codex/hooks (hooks.json; a rewrite
must come with "allow", which there approves nothing by itself).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InvalidValueError

__all__ = ["AGENTS", "Agent", "agent_named", "agent_of"]


class Agent(NamedTuple):
    """`home_variable` names the user's folder instead of `home`.

    No dataclass: those load three times as much as all else that a hook needs.
    """

    name: str
    home_variable: str
    home: str
    file: str
    local_file: str | None
    before: str
    after: tuple[str, ...]
    rewrite_says_allow: bool
    note: str

    def settings_file(self, scope: str, environment: Mapping[str, str]) -> Path:
        """Where hooks are configured for `user`, `project` or `local` (a checkout of one's own)."""
        if scope == "user":
            return self._user_folder(environment) / self.file
        file = self.file if scope == "project" else self.local_file
        if file is None:
            raise InvalidValueError("--scope", scope, f"{self.name} knows user and project")
        return Path.cwd() / self.home / file

    def rules_against_rewriting(self, project: Path, environment: Mapping[str, str]) -> str | None:
        """The file whose rules look at command lines, and would not know a rewritten one."""
        user = self._user_folder(environment)
        if self.name == "codex":
            folders = (user / "rules", project / self.home / "rules")
            return next((str(file) for folder in folders for file in folder.glob("*.rules")), None)
        files = (
            Path("/etc/claude-code/managed-settings.json"),
            user / self.file,
            project / self.home / self.file,
            project / self.home / "settings.local.json",
        )
        return next((str(file) for file in files if _has_command_rule(file)), None)

    def _user_folder(self, environment: Mapping[str, str]) -> Path:
        named = environment.get(self.home_variable)
        return Path(named) if named else Path.home() / self.home


AGENTS = (
    Agent(
        "claude-code", "CLAUDE_CONFIG_DIR", ".claude", "settings.json", "settings.local.json",
        "PreToolUse", ("PostToolUse", "PostToolUseFailure"), rewrite_says_allow=False,
        note="Sessions that run already see it after a restart.",
    ),
    Agent(
        "codex", "CODEX_HOME", ".codex", "hooks.json", None,
        "PreToolUse", ("PostToolUse",), rewrite_says_allow=True,
        note="Codex asks you to trust new hooks: look at /hooks in it.",
    ),
)  # fmt: skip


def agent_named(name: str) -> Agent:
    for agent in AGENTS:
        if agent.name == name:
            return agent
    known = ", ".join(agent.name for agent in AGENTS)
    raise InvalidValueError("AGENT", name, f"agents here: {known}")


def agent_of(payload: Mapping[str, Any]) -> Agent:
    """Who sent this: turns have ids in Codex only."""
    return agent_named("codex" if "turn_id" in payload else "claude-code")


def _has_command_rule(file: Path) -> bool:
    try:
        permissions = json.loads(file.read_text(encoding="utf-8"))["permissions"]
        rules = [rule for rule in _rules(permissions) if rule.startswith("Bash(")]
        return any("agentcgroup" not in rule for rule in rules)  # ours know rewritten commands
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # no file, or one that its owner does not heed either


def _rules(permissions: Mapping[str, Any]) -> Iterator[str]:
    for kind in ("allow", "ask", "deny"):
        yield from (rule for rule in permissions.get(kind) or () if isinstance(rule, str))
