# SPDX-License-Identifier: Apache-2.0
"""One HTML file that tells what happened: pictures as SVG, no script, nothing from elsewhere."""
