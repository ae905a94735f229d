# SPDX-License-Identifier: Apache-2.0
"""A Docker engine of a test's own, with one image: busybox and our static shim's mount point.

with DockerEngine("cgroupfs") as engine:
    box = engine.run("box", "--memory", "256m")
    engine.docker("exec", "box", "true")
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from harness import CGROUPFS, PATIENCE_S, until

from agentcgroup.programs import find_program

__all__ = ["DEBIAN", "IMAGE", "SHIM", "Container", "DockerEngine"]

SHIM = "/usr/local/bin/agentcgroup-run"
IMAGE = "boxes:test"
_MOUNTS = ("/usr:/usr", "/opt:/opt", "/src:/src", "/usr/lib:/lib", "/usr/lib64:/lib64")
DEBIAN = tuple(word for mount in _MOUNTS if Path(mount.partition(":")[0]).exists()
               for word in ("-v", f"{mount}:ro"))  # fmt: skip
"""Options of `docker run` for who brings no programs along."""
APPLETS = ("sh", "sleep", "cat", "true", "false", "id", "ls", "dd", "head", "tail", "mkdir", "echo")


class Container:
    def __init__(self, engine: DockerEngine, name: str) -> None:
        self.engine = engine
        self.name = name

    def inspect(self) -> dict[str, Any]:
        (found,) = json.loads(self.engine.docker("inspect", self.name))
        return found  # type: ignore[no-any-return]

    @property
    def id(self) -> str:
        return str(self.inspect()["Id"])

    @property
    def cgroup(self) -> Path:
        where = {
            "cgroupfs": f"docker/{self.id}",
            "systemd": f"system.slice/docker-{self.id}.scope",
        }
        return CGROUPFS / where[self.engine.driver]

    def exec(self, *command: str, options: tuple[str, ...] = ()) -> str:
        return self.engine.docker("exec", *options, self.name, *command)

    def remove(self) -> None:
        self.engine.docker("rm", "-f", self.name)


class DockerEngine:
    """`driver`: cgroupfs or systemd."""

    def __init__(self, driver: str) -> None:
        self.driver = driver
        self.base = Path(tempfile.mkdtemp(prefix="engine-", dir="/run"))
        self.host = f"unix://{self.base}/docker.sock"
        self.log = self.base / "dockerd.log"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> DockerEngine:
        """With a containerd of our own: dockerd gives the one it starts 15 s, no more."""
        runtime = self.base / "containerd"
        runtime.mkdir(exist_ok=True)
        config = runtime / "config.toml"
        config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        address = runtime / "containerd.sock"
        self._start("containerd", "--config", config, "--address", address,
                    "--root", runtime / "root", "--state", runtime / "state")  # fmt: skip
        until(address.exists, "containerd listens", self.log_text)
        self._start("dockerd", "--host", self.host, "--containerd", address,
                    "--data-root", self.base / "data", "--exec-root", self.base / "exec",
                    "--pidfile", self.base / "pid",
                    "--exec-opt", f"native.cgroupdriver={self.driver}")  # fmt: skip
        until(self._answers, "dockerd answers", self.log_text)
        return self

    def _start(self, *command: str | Path) -> None:
        with self.log.open("ab") as log:
            self.processes.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def _answers(self) -> bool:
        for process in self.processes:
            assert process.poll() is None, f"{process.args} ended:\n{self.log_text()}"
        return self._call("version").returncode == 0

    def stop(self) -> None:
        """Containers are stopped with it (no live-restore)."""
        while self.processes:
            process = self.processes.pop()
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)

    def __enter__(self) -> DockerEngine:
        self.start()
        self._import_image()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(AssertionError):
            listed = self.docker("ps", "-aq").split()
            if listed:
                self.docker("rm", "-f", *listed)
        self.stop()
        shutil.rmtree(self.base, ignore_errors=True)

    def docker(self, *arguments: str) -> str:
        """Standard output of `docker ARGUMENTS…`, which must succeed."""
        done = self._call(*arguments)
        assert done.returncode == 0, f"docker {arguments}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def refused(self, *arguments: str) -> str:
        """What it says when it fails."""
        done = self._call(*arguments)
        assert done.returncode != 0, done.stdout
        return done.stdout + done.stderr

    def run(
        self, name: str, *options: str, command: tuple[str, ...] = ("sleep", "inf")
    ) -> Container:
        """A running container with an init that dies when told to."""
        self.docker("run", "-d", "--init=false", "--network", "none", "--stop-timeout", "1",
                    "--name", name, *options, IMAGE, *command)  # fmt: skip
        return Container(self, name)

    def run_debian(
        self, name: str, *options: str, command: tuple[str, ...] = ("sleep", "inf")
    ) -> Container:
        """The same with this machine's programs in it, Python and our package among them."""
        return self.run(name, *DEBIAN, *options, command=command)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, check=False,
            timeout=PATIENCE_S, env={**os.environ, "DOCKER_HOST": self.host},
        )  # fmt: skip

    def _import_image(self) -> None:
        tar_file = self.base / "image.tar"
        with tarfile.open(tar_file, "w") as tar:
            tar.add("/bin/busybox", "bin/busybox")
            for name in APPLETS:
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
            shim = find_program("agentcgroup-run")
            assert shim is not None
            tar.add(shim, SHIM.lstrip("/"))
            passwd = b"root:x:0:0::/:/bin/sh\nagent:x:1000:1000::/:/bin/sh\n"
            entry = tarfile.TarInfo("etc/passwd")
            entry.size = len(passwd)
            tar.addfile(entry, io.BytesIO(passwd))
            for directory in ("tmp", "run/agentcgroup/agent", "proc", "sys", "dev"):
                made = tarfile.TarInfo(directory)
                made.type, made.mode = tarfile.DIRTYPE, 0o777
                tar.addfile(made)
        self.docker("import", str(tar_file), IMAGE)
