# SPDX-License-Identifier: Apache-2.0
"""Readers of other projects' recordings. Each yields a SessionTrace."""
