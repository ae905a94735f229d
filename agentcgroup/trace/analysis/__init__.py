# SPDX-License-Identifier: Apache-2.0
"""What recorded runs say: the paper's tables, as it defines them and corrected. Needs numpy."""
