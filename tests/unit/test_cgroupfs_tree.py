# SPDX-License-Identifier: Apache-2.0
"""Preparing the root: controllers, walking, and what to tell the administrator."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentcgroup.cgroupfs import files, tree
from agentcgroup.cgroupfs.fake import FakeCgroup, FakeKernel
from agentcgroup.errors import InvalidValueError


@pytest.fixture
def root() -> FakeCgroup:
    return FakeCgroup.delegated(FakeKernel())


def test_enable_is_idempotent_and_tells_what_is_missing(root: FakeCgroup) -> None:
    missing = tree.enable_controllers(root, ["memory", "pids", "rdma"])
    assert set(missing) == {"rdma"}
    assert "rdma" in missing["rdma"]
    assert root.read(files.CGROUP_SUBTREE_CONTROL) == "memory pids"
    assert tree.enable_controllers(root, ["memory", "pids"]) == {}


def test_inner_processes_are_named(root: FakeCgroup) -> None:
    pid = root.kernel.spawn(root.node)
    with pytest.raises(tree.DelegationError, match=f"{pid}") as caught:
        tree.enable_controllers(root, ["memory"])
    assert caught.value.field == "root"
    assert "child cgroup" in caught.value.remedy
    assert isinstance(caught.value, InvalidValueError)


def test_walk_goes_down_and_closes_behind(root: FakeCgroup) -> None:
    for name in ("a", "b"):
        root.create(name).create("leaf")
    kept, seen = [], []
    for cg in tree.walk(root):
        seen.append(cg.path.removeprefix(root.path))
        kept.append(cg.dup())
    assert seen == ["/a", "/a/leaf", "/b", "/b/leaf"]
    assert all(cg.exists() for cg in kept)


def test_walk_survives_removal_meanwhile(root: FakeCgroup) -> None:
    for name in ("a", "b", "c"):
        root.create(name)
    seen = []
    for cg in tree.walk(root):
        seen.append(cg.name)
        if cg.name == "a":
            root.child("b").remove()
            cg.remove()
    assert seen == ["a", "c"]


def test_root_must_exist_be_a_directory_and_cgroup_v2(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path, said in (
        (tmp_path / "nothing", "no such directory"),
        (file, "is a directory"),
        (tmp_path, "not a cgroup file system"),
    ):
        with pytest.raises(tree.DelegationError, match=said) as caught:
            tree.find_root(path)
        assert caught.value.value == str(path)


def test_proc_path_of_an_unmounted_path(root: FakeCgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree.proc, "cgroup2_mount_point", lambda: "/sys/fs/cgroup")
    assert tree.proc_path(root) == "/agentcgroup"
    assert tree.proc_path(FakeCgroup.root(root.kernel)) == "/"
    monkeypatch.setattr(tree.proc, "cgroup2_mount_point", lambda: None)
    assert tree.proc_path(root) == root.path
