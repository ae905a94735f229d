# SPDX-License-Identifier: Apache-2.0
"""The report in a real browser: it renders, light and dark, wide and narrow."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from test_trace_report import capacity_file, decision_log, runs_file

from agentcgroup.trace.report.build import build_report

pytestmark = pytest.mark.browser
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--force-device-scale-factor=1",
)  # fmt: skip
# Okabe and Ito's blue and vermilion, as the page has them on light and on dark.
SERIES = {"light": ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)),
          "dark": ((0x56, 0xB4, 0xE9), (0xFF, 0x8C, 0x42))}  # fmt: skip

__all__ = ["capacity_file", "runs_file"]


def screenshot(page: Path, out: Path, *, dark: bool, width: int, height: int) -> np.ndarray:
    scheme = "0" if dark else "1"
    command = [
        "chromium", *FLAGS, f"--user-data-dir={out.parent / out.stem}",
        f"--window-size={width},{height}", f"--blink-settings=preferredColorScheme={scheme}",
        f"--screenshot={out}", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert out.is_file(), done.stderr[-2000:]
    picture = imread(out)
    return np.asarray(picture[..., :3] * 255).round().astype(int)


def share_of(picture: np.ndarray, colour: tuple[int, int, int], slack: int = 40) -> float:
    """Areas are a little translucent, so near the colour counts."""
    return float((np.abs(picture - np.array(colour)).max(axis=-1) <= slack).mean())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_renders(
    scheme: str, tmp_path: Path, runs_file: Path, capacity_file: Path
) -> None:
    page = tmp_path / "report.html"
    sources = [runs_file, capacity_file, decision_log(tmp_path / "log.jsonl")]
    page.write_text(build_report(sources, "Report"), encoding="utf-8")
    picture = screenshot(
        page, tmp_path / "page.png", dark=scheme == "dark", width=1100, height=3000
    )
    assert picture.shape == (3000, 1100, 3)
    background = picture[5, 5]
    assert (background.mean() < 60) == (scheme == "dark")
    drawn = (np.abs(picture - background).max(axis=-1) > 24).mean()
    assert 0.02 < drawn < 0.6, "an empty page, or one that is all picture"
    for colour in SERIES[scheme]:
        assert share_of(picture, colour) > 0.002
    # The margins stay free: nothing runs out of the page.
    assert (np.abs(picture[:, -4:] - background).max(axis=-1) <= 24).all()


def test_a_narrow_window_scrolls_nothing_sideways(tmp_path: Path, runs_file: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(build_report([runs_file], "Report"), encoding="utf-8")
    picture = screenshot(page, tmp_path / "page.png", dark=False, width=620, height=2000)
    background = picture[5, 5]
    assert (np.abs(picture[:, -4:] - background).max(axis=-1) <= 24).all()
