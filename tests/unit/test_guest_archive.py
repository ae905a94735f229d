# SPDX-License-Identifier: Apache-2.0
"""Guest, pure parts: apt configuration, kernel roles, dependency lists."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "sandboxes/guest"))

from guestvm import roles, sources, userland  # noqa: E402

DEB822 = """\
# The distribution
Types: deb deb-src
# a comment between fields
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /etc/keyrings/own.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""


def test_deb822_gives_the_release_mirror_with_its_key() -> None:
    mirror = sources.debian_mirror(sources.parse_deb822(DEB822))
    assert mirror is not None
    line = mirror.line("trixie-backports")
    assert line == (
        "deb [signed-by=/etc/keyrings/own.gpg] http://mirror.example/debian trixie-backports main"
    )


def test_security_and_foreign_archives_are_not_the_mirror() -> None:
    text = (
        "deb http://mirror.example/debian-security bookworm-security main\n"
        "deb [arch=amd64] https://else.example/apt nodistro main\n"
        "deb-src http://mirror.example/debian bookworm main\n"
    )
    assert sources.debian_mirror(sources.parse_list(text)) is None


def test_one_line_entries_keep_what_verification_needs() -> None:
    text = "deb [arch=amd64 trusted=yes] https://mirror.example/debian/ bookworm main # mine\n"
    (entry,) = sources.parse_list(text)
    assert entry.uri == "https://mirror.example/debian/"
    assert entry.components == ("main",)
    assert entry.options == ("trusted=yes", f"signed-by={sources.DEFAULT_KEYRING}")


@pytest.mark.parametrize("off", ["Enabled: no", "Enabled: false"])
def test_a_disabled_stanza_does_not_count(off: str) -> None:
    text = f"Types: deb\nURIs: http://a.example\nSuites: bookworm\nComponents: main\n{off}\n"
    assert sources.parse_deb822(text) == []


def test_an_embedded_key_falls_back_to_the_keyring() -> None:
    text = (
        "Types: deb\nURIs: http://a.example\nSuites: trixie\nComponents: main\n"
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ\n"
    )
    (entry,) = sources.parse_deb822(text)
    assert entry.options == (f"signed-by={sources.DEFAULT_KEYRING}",)


def test_only_transport_settings_are_taken_over() -> None:
    dump = (
        'APT::Architecture "amd64";\nAcquire "";\nAcquire::http "";\n'
        'Acquire::http::Proxy "http://proxy.example:3128";\n'
        'Acquire::https::CaInfo "/etc/ca.pem";\nAcquire::Check-Valid-Until "false";\n'
        'Acquire::IndexTargets::deb::DEP-11 "";\nDPkg::Post-Invoke:: "rm -rf /";\n'
    )
    assert sources.transport_options(dump) == [
        'Acquire::http::Proxy "http://proxy.example:3128";',
        'Acquire::https::CaInfo "/etc/ca.pem";',
        'Acquire::Check-Valid-Until "false";',
    ]


NAMES = [
    "linux-image-cloud-amd64",
    "linux-image-6.16.3+deb13-cloud-amd64",
    "linux-image-6.16.12+deb13-cloud-amd64",
    "linux-image-6.16.12+deb13-cloud-amd64-unsigned",
    "linux-image-6.16.12+deb13-cloud-amd64-dbg",
    "linux-image-6.16.12+deb13-amd64",
    "linux-image-6.9.8+deb13-cloud-amd64",
    "linux-image-7.3.4+deb13-cloud-amd64",
    "linux-image-7.4-rc2+deb13-cloud-amd64",
    "linux-image-7.10.1+deb13-cloud-amd64",
    "linux-headers-7.10.1+deb13-cloud-amd64",
]


def test_newest_compares_numbers_not_text() -> None:
    first = roles.candidates(roles.ROLES["newest"], NAMES)[0]
    assert first.package == "linux-image-7.10.1+deb13-cloud-amd64"
    assert first.release == "7.10.1+deb13-cloud-amd64"


def test_oldest_role_tries_series_upwards_each_with_its_last_build() -> None:
    tried = [kernel.release for kernel in roles.candidates(roles.ROLES["oldscx"], NAMES)]
    assert tried[:2] == ["6.9.8+deb13-cloud-amd64", "6.16.12+deb13-cloud-amd64"]


def test_abi_numbers_of_older_releases_order_too() -> None:
    names = ["linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64"]
    (best,) = roles.candidates(roles.ROLES["lts"], names)
    assert best.release == "6.1.0-50-cloud-amd64"


@pytest.mark.parametrize(
    ("role", "config", "fits"),
    [
        ("newest", "", True),
        ("oldscx", "CONFIG_SCHED_CLASS_EXT=y\n", True),
        ("oldscx", "# CONFIG_SCHED_CLASS_EXT is not set\n", False),
        ("noscx", "# CONFIG_SCHED_CLASS_EXT is not set\n", True),
        ("noscx", "CONFIG_SCHED_CLASS_EXT=y\n", False),
        ("lts", "CONFIG_BPF=y\n", True),
    ],
)
def test_a_role_is_decided_by_the_kernels_configuration(role: str, config: str, fits: bool) -> None:
    assert roles.fits(roles.ROLES[role], config) is fits


def test_extras_that_name_the_project_itself_are_resolved() -> None:
    text = """
[project]
name = "thing"
dependencies = ["core>=1"]
[project.optional-dependencies]
host = ["cli"]
report = ["plots"]
unused = ["never"]
dev = ["thing[host, report]", "tests>=8"]
"""
    assert userland.requirements(text, ("dev",)) == ["cli", "core>=1", "plots", "tests>=8"]


def test_this_projects_dependencies_include_what_tests_need() -> None:
    wanted = userland.requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = {text.split(">")[0].split("=")[0] for text in wanted}
    assert {"pydantic", "typer", "psutil", "pytest", "hypothesis"} <= names
    assert not any("agentcgroup" in name for name in names)
