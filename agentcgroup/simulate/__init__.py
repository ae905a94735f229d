# SPDX-License-Identifier: Apache-2.0
"""A host that does not exist around the policy that does (DESIGN: simulate)."""
