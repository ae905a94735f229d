# SPDX-License-Identifier: Apache-2.0
"""The systemd units, with the paths of this installation filled in."""

from __future__ import annotations

import shutil
import sys
from importlib import resources
from pathlib import Path

from ...errors import ConfigError
from ...programs import find_program
from ..config import Config
from ..systemd import SCOPE

__all__ = ["DIRECTORY", "UNITS", "install", "render"]

DIRECTORY = Path("/etc/systemd/system")
UNITS = ("agentcgroup.slice", "agentcgroup-guardian.service", "agentcgroupd.service")
_SCOPE_ROOT = f"/sys/fs/cgroup/system.slice/{SCOPE}/tree"


def render(name: str, config: Config) -> str:
    """One unit's text. Raises ConfigError when a program is not installed."""
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    for word, value in _values(config).items():
        text = text.replace(f"@{word}@", value)
    return text


def install(config: Config, directory: Path = DIRECTORY) -> list[Path]:
    """Write every unit; systemd reads them at its next daemon-reload."""
    texts = {name: render(name, config) for name in UNITS}
    written = []
    for name, text in texts.items():
        path = directory / name
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                "directory", str(directory), f"make it writable ({error.strerror})"
            ) from None
        path.chmod(0o644)
        written.append(path)
    return written


def _values(config: Config) -> dict[str, str]:
    daemon = config.daemon
    return {
        "DAEMON": _daemon_command(),
        "GUARDIAN": _program("agentcgroup-guardian", find_program("agentcgroup-guardian")),
        "ROOT": daemon.root or _SCOPE_ROOT,
        "RUN_DIR": daemon.run_dir,
        "TIMEOUT_S": f"{daemon.guardian_timeout_s:g}",
    }


def _daemon_command() -> str:
    """The script beside this interpreter (a virtual environment's), else from PATH."""
    beside = Path(sys.executable).parent / "agentcgroupd"
    return _program("agentcgroupd", str(beside) if beside.exists() else shutil.which(beside.name))


def _program(name: str, found: str | None) -> str:
    if found is None:
        raise ConfigError("program", name, "install agentcgroup[host] for this interpreter")
    if " " in found:
        raise ConfigError("program", found, "install to a path without spaces")
    return found
