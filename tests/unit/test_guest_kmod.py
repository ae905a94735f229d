# SPDX-License-Identifier: Apache-2.0
"""Guest: for which kernels the optional module is built, and what happens if it can't be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "sandboxes/guest"))

from guestvm import kmod  # noqa: E402
from guestvm.host import Cache, GuestError  # noqa: E402
from guestvm.kernel import BootKernel  # noqa: E402


def kernel(role: str) -> BootKernel:
    release = "9.9.9-cloud-amd64"
    return BootKernel(role, f"linux-image-{release}", "9", release, "trixie", False, "/nowhere")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    room = tmp_path / "checkout" / kmod.ROOM
    room.mkdir(parents=True)
    (room / "Makefile").write_text("all:\n")
    return tmp_path / "checkout"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    tools = tmp_path / "tools-1"
    monkeypatch.setattr(kmod, "_tools", lambda cache, suite: tools)
    monkeypatch.setattr(kmod, "_headers", lambda cache, kernel: tmp_path)
    return Cache(tmp_path / "cache")


@pytest.mark.parametrize("role", ["oldscx", "lts"])
def test_some_roles_have_none(cache: Cache, tree: Path, role: str) -> None:
    assert kmod.ensure(cache, tree, kernel(role)) is None


def test_a_checkout_without_the_sources_has_none(cache: Cache, tmp_path: Path) -> None:
    assert kmod.ensure(cache, tmp_path, kernel("newest")) is None


def test_it_is_built_once_for_these_sources(
    cache: Cache, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def make(root: Path, headers: Path, source: Path, release: str) -> None:
        built.append(release)
        (source / kmod.NAME).write_text(f"module {len(built)}")

    monkeypatch.setattr(kmod, "_make", make)
    found = [kmod.ensure(cache, tree, kernel("newest")) for _ in range(2)]
    assert found[0] == found[1] and built == ["9.9.9-cloud-amd64"]
    (tree / kmod.ROOM / "Makefile").write_text("all: new\n")
    fresh = kmod.ensure(cache, tree, kernel("newest"))
    assert fresh is not None and fresh.read_text() == "module 2"


def test_a_failure_is_told_and_the_guest_goes_without(
    cache: Cache, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(*_arguments: object) -> None:
        raise GuestError("no such header")

    monkeypatch.setattr(kmod, "_make", make)
    assert kmod.ensure(cache, tree, kernel("noscx")) is None
    assert "there will be no agentcgroup_memcg.ko: no such header" in capsys.readouterr().err


@pytest.mark.parametrize("role", ["oldscx", "lts"])
def test_where_there_is_no_module_there_are_no_headers(cache: Cache, role: str) -> None:
    assert kmod.headers_image(cache, kernel(role)) is None


def test_headers_that_cannot_be_had_are_told(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_arguments: object) -> None:
        raise GuestError("not in the archive")

    monkeypatch.setattr(kmod, "_headers", gone)
    assert kmod.headers_image(cache, kernel("newest")) is None
    assert "no headers of 9.9.9-cloud-amd64: not in the archive" in capsys.readouterr().err
