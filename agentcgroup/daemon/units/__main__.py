# SPDX-License-Identifier: Apache-2.0
"""python3 -m agentcgroup.daemon.units [DIRECTORY]: write the systemd units there."""

from __future__ import annotations

import sys
from pathlib import Path

from ...errors import AgentCgroupError
from ..config import load_config
from . import DIRECTORY, install


def main() -> int:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY
    try:
        for path in install(load_config(), directory):
            print(path)
    except AgentCgroupError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(
        "now: systemctl daemon-reload && systemctl enable --now agentcgroup-guardian agentcgroupd"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
