# SPDX-License-Identifier: Apache-2.0
"""The Python in docs/agents.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from client_fake_daemon import FakeDaemon

DOCS = Path(__file__).parents[2] / "docs"
SNIPPETS = re.findall(
    r"^```python\n(.*?)^```", (DOCS / "agents.md").read_text(encoding="utf-8"), re.M | re.S
)


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 5


@pytest.mark.parametrize("code", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeDaemon(tmp_path) as daemon:
        daemon.handlers["session.budget"] = lambda _params, _fd: {
            "session": "s", "memory_bytes": 4096, "memory_free_bytes": 1024, "granted_bytes": 0,
            "memory_current_bytes": 0, "cpu": None, "calls": 0, "queued": 0,
        }  # fmt: skip
        daemon.handlers["step.report"] = lambda _params, _fd: {"advice": "continue"}
        monkeypatch.setenv("AGENTCGROUP_SOCKET", daemon.agent_path)
        exec(compile(code, "agents.md", "exec"), {"__name__": "snippet"})
        assert daemon.methods()
    if "print" in code:
        assert capsys.readouterr().out or "except" in code


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([a-z_/.]*)#?([^)]*)\)", page.read_text("utf-8")):
        if "/" in target:
            assert (page.parent / target).exists(), target
            continue
        text = (DOCS / target).read_text("utf-8") if target else page.read_text("utf-8")
        titles = re.findall(r"^#+ (.*)$", text, re.M)
        slugs = {re.sub(r"[^a-z0-9 _-]", "", t.lower()).replace(" ", "-") for t in titles}
        assert not anchor or anchor in slugs, f"{target}#{anchor}"
