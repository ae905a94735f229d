# SPDX-License-Identifier: Apache-2.0
"""Builds and boots the test guest. Standard library only: it runs before anything is installed."""

from __future__ import annotations
