# SPDX-License-Identifier: Apache-2.0
"""Entry points `agentcgroup` and `agentcgroupd`, and the one place where errors end.

Standard library only until a command is known: `run` hands over to the static program
without loading anything, `hook run` is called before every command of an agent, and a
missing extra is one line instead of a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from ..errors import (
    EXIT_BAD_CONFIG,
    EXIT_NOT_PERMITTED,
    EXIT_REFUSED,
    EXIT_USAGE,
    AgentCgroupError,
    RemoteError,
)

__all__ = ["daemon_main", "exit_code", "main"]

EXIT_INTERRUPTED = 130

_EXTRA_OF = {
    "docker": "host", "psutil": "host", "pyroute2": "host", "rich": "host", "typer": "host",
    "matplotlib": "report", "numpy": "report",
    "sklearn": "supervisor", "xgboost": "supervisor",
    "mcp": "mcp",
}  # fmt: skip
# As agentcgroup-run maps them, so that both ways to run a command end alike.
_EXIT_OF_KIND = {
    "invalid_params": EXIT_USAGE,
    "invalid_request": EXIT_USAGE,
    "method_not_found": EXIT_USAGE,
    "not_found": EXIT_USAGE,
    "already_exists": EXIT_USAGE,
    "message_too_large": EXIT_USAGE,
    "refused": EXIT_REFUSED,
    "wait_timeout": EXIT_REFUSED,
    "over_budget": EXIT_REFUSED,
    "too_many": EXIT_REFUSED,
    "not_permitted": EXIT_NOT_PERMITTED,
    "no_session": EXIT_NOT_PERMITTED,
    "target_refused": EXIT_NOT_PERMITTED,
    "not_supported": EXIT_BAD_CONFIG,
    "no_identity": EXIT_BAD_CONFIG,
    "bad_descriptor": EXIT_BAD_CONFIG,
}


def main() -> None:
    """`agentcgroup COMMAND …`; exits with the command's status."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"] and arguments[1:] != ["--help"]:
        from .handover import as_shell, hand_over  # noqa: PLC0415

        hand_over(arguments[1:])
        arguments = ["run", *as_shell(arguments[1:])]
    if arguments[:2] == ["hook", "run"] and "--help" not in arguments:
        from ..integrations.hook_run import main as run_hook  # noqa: PLC0415

        sys.exit(run_hook(arguments[2:]))
    sys.exit(_guarded("agentcgroup", lambda: _run_app(arguments)))


def daemon_main() -> None:
    """`agentcgroupd …`: the same as `agentcgroup daemon …`."""
    sys.exit(_guarded("agentcgroupd", lambda: _run_daemon(sys.argv[1:])))


def exit_code(error: AgentCgroupError) -> int:
    """The exit status that an error becomes."""
    if isinstance(error, RemoteError):
        return _EXIT_OF_KIND.get(error.kind, error.exit_code)
    return error.exit_code


def _run_app(arguments: Sequence[str]) -> None:
    from .app import build_app  # noqa: PLC0415

    build_app(arguments)(args=list(arguments), prog_name="agentcgroup")


def _run_daemon(arguments: Sequence[str]) -> None:
    from .app import build_daemon_app  # noqa: PLC0415

    build_daemon_app()(args=list(arguments), prog_name="agentcgroupd")


def _guarded(program: str, run: Callable[[], None]) -> int:
    """Run a command; what it raises on purpose becomes one line and an exit status."""
    try:
        run()
    except AgentCgroupError as error:
        print(f"{program}: {_text(error)}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(
            f"{program}: this command needs the extra '{extra}':"
            f" pip install 'agentcgroup[{extra}]'",
            file=sys.stderr,
        )
        return EXIT_BAD_CONFIG
    return 0


def _text(error: AgentCgroupError) -> str:
    """Message and remedy on one line; foreign text in it cannot forge another."""
    text = str(error)
    remedy = getattr(error, "remedy", "")
    if remedy and remedy not in text:
        text = f"{text}: {remedy}"
    return "".join(c if c.isprintable() else " " for c in text)


if __name__ == "__main__":
    main()
