# SPDX-License-Identifier: Apache-2.0
"""The page around the pictures: style for light and dark, headings, tables, legends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .svg import text_of

__all__ = ["figure", "legend", "page", "section", "table"]

# Okabe and Ito's colours, told apart without colour vision; lighter ones on dark.
_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b07aa1", "#8a6d00", "#3f8fbf", "#6b4c9a", "#4d4d4d")
_DARK = ("#56b4e9", "#ff8c42", "#2fd0a4", "#e6a3cf", "#e6c84a", "#9fd3f2", "#b9a0e8", "#bdbdbd")


def _colours(values: Sequence[str]) -> str:
    return "".join(f"--c{number}:{value};" for number, value in enumerate(values))


def _series() -> str:
    """Lines, areas, bars and keys in each of the colours."""
    return "".join(
        f".c{n} {{ stroke: var(--c{n}); fill: none; stroke-width: 2 }}"
        f" .c{n}.area, .c{n}.dot, .c{n}.bar"
        f" {{ fill: var(--c{n}); stroke: var(--page); stroke-width: 1 }}"
        f" .c{n}.key {{ background: var(--c{n}) }} "
        for n in range(len(_LIGHT))
    )


_STYLE = f"""
:root {{ color-scheme: light dark; --ink:#1b1b1b; --soft:#5a5a5a; --page:#fff; --grid:#e3e3e3;
  --panel:#f6f6f6; --bad:#b00020; --good:#00694a; {_colours(_LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink:#ececec; --soft:#aaa; --page:#16181b;
  --grid:#33373d; --panel:#1f2226; --bad:#ff7b8a; --good:#5fd3a8; {_colours(_DARK)} }} }}
* {{ box-sizing: border-box }}
body {{ margin: 0 auto; padding: 24px 20px 64px; max-width: 1080px; color: var(--ink);
  background: var(--page); font: 15px/1.45 system-ui, "DejaVu Sans", sans-serif }}
h1 {{ font-size: 24px; margin: 0 0 4px }} h2 {{ font-size: 19px; margin: 36px 0 8px }}
h3 {{ font-size: 15px; margin: 20px 0 4px }}
p.note {{ color: var(--soft); margin: 2px 0 8px }}
figure {{ margin: 8px 0 20px }} svg {{ width: 100%; height: auto; display: block }}
svg text {{ font: 12px system-ui, "DejaVu Sans", sans-serif; fill: var(--soft) }}
svg text.title {{ fill: var(--ink) }}
.grid {{ stroke: var(--grid) }} .axis {{ stroke: var(--soft); fill: none }}
.kill {{ stroke: var(--bad); stroke-width: 2.5; fill: none }}
.budget {{ stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 7 5; fill: none }}
.limit {{ stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 3 3; fill: none }}
.wait {{ fill: var(--soft); opacity: .45 }}
{_series()}
.c0.area,.c1.area,.c2.area,.c3.area,.c4.area,.c5.area,.c6.area,.c7.area {{ opacity: .85 }}
.legend {{ display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 4px 0; color: var(--soft) }}
.key {{ display: inline-block; width: 14px; height: 10px; margin-right: 6px; border-radius: 2px }}
.scroll {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: 14px; margin: 6px 0 12px }}
th, td {{ padding: 4px 14px 4px 0; text-align: left; border-bottom: 1px solid var(--grid);
  vertical-align: top }}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }}
td.bad {{ color: var(--bad); font-weight: 600 }} td.good {{ color: var(--good) }}
details {{ background: var(--panel); border-radius: 6px; padding: 8px 12px }}
summary {{ cursor: pointer }} code {{ font-size: 13px }}
"""


def page(title: str, about: str, sections: Iterable[str]) -> str:
    """A whole document that loads nothing."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
        " style-src 'unsafe-inline'\">"
        f"<title>{text_of(title)}</title><style>{_STYLE}</style></head><body>"
        f'<h1>{text_of(title)}</h1><p class="note">{text_of(about, 400)}</p>'
        f"{''.join(sections)}</body></html>\n"
    )


def section(title: str, note: str, *parts: str) -> str:
    return (
        f'<section><h2>{text_of(title)}</h2><p class="note">{text_of(note, 600)}</p>'
        f"{''.join(parts)}</section>"
    )


def figure(title: str, svg: str, below: str = "") -> str:
    return f"<figure><h3>{text_of(title)}</h3>{svg}{below}</figure>"


def legend(names: Sequence[str], *marks: tuple[str, str]) -> str:
    """`marks`: (symbol, meaning) besides the colours."""
    keys = [
        f'<span><span class="key c{n % 8}"></span>{text_of(name)}</span>'
        for n, name in enumerate(names)
    ]
    keys += [f"<span>{text_of(symbol)} {text_of(meaning)}</span>" for symbol, meaning in marks]
    return f'<div class="legend">{"".join(keys)}</div>'


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Numbers to the right. A cell may be (text, class)."""
    body = []
    numeric: set[int] = set()
    for row in rows:
        cells = []
        for index, cell in enumerate(row):
            value, mark = cell if isinstance(cell, tuple) else (cell, "")
            words = text_of(value, 300)
            if words[:1].isdigit() or words in ("-", ""):
                numeric.add(index)
                mark = f"n {mark}".strip()
            cells.append(f'<td class="{mark}">{words}</td>' if mark else f"<td>{words}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(
        f'<th class="n">{text_of(name)}</th>' if n in numeric else f"<th>{text_of(name)}</th>"
        for n, name in enumerate(columns)
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
