# SPDX-License-Identifier: Apache-2.0
"""Which Debian mirror this machine uses, read from its own apt configuration. Pure.

Understands one-line entries (sources.list(5)) and deb822 stanzas (.sources files).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

DEFAULT_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEBIAN_SUITES = {
    "bullseye", "bookworm", "trixie", "forky", "duke", "sid",
    "oldstable", "stable", "testing", "unstable",
}  # fmt: skip
# Settings of apt that decide whether and how a mirror can be reached; the rest stays out.
_TRANSPORT = re.compile(
    r"^Acquire::(?:https?::|ForceIPv[46] |Retries |Check-Valid-Until |Check-Date |"
    r"Max-ValidTime |AllowInsecureRepositories )"
)


@dataclass(frozen=True)
class Source:
    """One apt source: where, which suites and components, how it is verified."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[str, ...] = ()

    def line(self, suite: str, components: str = "main") -> str:
        """The entry of a sources.list for one suite of the same mirror."""
        return f"deb [{' '.join(self.options)}] {self.uri} {suite} {components}"


def parse_list(text: str) -> list[Source]:
    """Entries of a one-line-style file."""
    found = []
    for raw in text.splitlines():
        line = raw.split("#", 1)[0].strip()
        match = re.match(r"^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+\S+)*)$", line)
        if match:
            options = (match[1] or "").split()
            found.append(
                Source(match[2], (match[3],), tuple(match[4].split()), _verification(options))
            )
    return found


def parse_deb822(text: str) -> list[Source]:
    """Entries of a .sources file; disabled ones and sources of source code are left out."""
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split():
            continue
        if fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        options = []
        signed_by = fields.get("signed-by", "")
        if signed_by.startswith("/"):
            options.append(f"signed-by={','.join(signed_by.split())}")
        if fields.get("trusted"):
            options.append(f"trusted={fields['trusted']}")
        suites = tuple(fields.get("suites", "").split())
        components = tuple(fields.get("components", "").split())
        found += [
            Source(uri, suites, components, _verification(options))
            for uri in fields.get("uris", "").split()
        ]
    return found


def debian_mirror(sources: Iterable[Source]) -> Source | None:
    """The first source that carries a Debian release's own `main` (not security, not updates)."""
    for source in sources:
        if "main" in source.components and DEBIAN_SUITES.intersection(source.suites):
            return source
    return None


def transport_options(apt_config_dump: str) -> list[str]:
    """Lines of `apt-config dump` about proxies, certificates and validity, for a private apt."""
    lines = (line.strip() for line in apt_config_dump.splitlines())
    return [line for line in lines if _TRANSPORT.match(line) and not line.endswith(' "";')]


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace():
            if name:
                fields[name] += "\n" + line.strip()
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def _verification(options: Iterable[str]) -> tuple[str, ...]:
    kept = [o for o in options if o.startswith(("signed-by=", "trusted=", "allow-insecure="))]
    if not any(option.startswith("signed-by=") for option in kept):
        kept.append(f"signed-by={DEFAULT_KEYRING}")
    return tuple(kept)
