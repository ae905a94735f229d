# SPDX-License-Identifier: Apache-2.0
"""How programs that know nothing of this one come to use it: hooks of agent CLIs, MCP."""
