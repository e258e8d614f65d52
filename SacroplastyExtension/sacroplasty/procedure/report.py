"""The case report: one HTML page that needs nothing else, and the injection curve as SVG."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Literal

from .. import RESEARCH_NOTICE, __version__
from ..files import atomic_file

Outcome = Literal["completed", "stopped", "refused"]

_OUTCOME_LABEL = {"completed": "✓ Completed", "stopped": "■ Stopped", "refused": "✕ Not done"}


@dataclass(frozen=True)
class Table:
    """Rows under a heading; `note` says how to read them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture file (.png or .svg) with its caption."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Report:
    """What the page says, from the outcome down to the details."""

    title: str
    outcome: Outcome
    headline: str
    facts: dict[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()


def write_report(report: Report, path: Path) -> None:
    """Write the page with all pictures inside it, whole or not at all."""
    with atomic_file(path) as draft:
        draft.write_text(render_html(report), encoding="utf-8")


def render_html(report: Report) -> str:
    """The page as a string."""
    parts = [
        f"<header class='{report.outcome}'><p class='outcome'>{_OUTCOME_LABEL[report.outcome]}</p>"
        f"<h1>{escape(report.title)}</h1><p class='headline'>{escape(report.headline)}</p></header>",
        f"<p class='notice'>{escape(RESEARCH_NOTICE)}</p>",
    ]
    if report.facts:
        rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in report.facts.items())
        parts.append(f"<dl>{rows}</dl>")
    if report.warnings:
        items = "".join(f"<li>{escape(warning)}</li>" for warning in report.warnings)
        parts.append(f"<section class='warnings'><h2>A person must check</h2><ul>{items}</ul></section>")
    if report.figures:
        parts.append(f"<section class='figures'>{''.join(_figure_html(figure) for figure in report.figures)}</section>")
    parts.extend(_table_html(table) for table in report.tables)
    parts.append(f"<footer>Written by sacroplasty {escape(__version__)}. {escape(RESEARCH_NOTICE)}</footer>")
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(report.title)}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _figure_html(figure: Figure) -> str:
    kind = "image/svg+xml" if figure.path.suffix == ".svg" else "image/png"
    data = base64.b64encode(figure.path.read_bytes()).decode("ascii")
    caption = escape(figure.caption)
    return f"<figure><img src='data:{kind};base64,{data}' alt='{caption}'><figcaption>{caption}</figcaption></figure>"


def _table_html(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f"<p class='note'>{escape(table.note)}</p>" if table.note else ""
    return (
        f"<section><h2>{escape(table.title)}</h2>{note}<div class='scroll'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div></section>"
    )


@dataclass(frozen=True)
class Curve:
    """One line of a plot: x and y of equal length. `points` draws dots in place of a line."""

    name: str
    color: str
    x: Sequence[float]
    y: Sequence[float]
    points: bool = False


@dataclass(frozen=True)
class Marker:
    """A vertical line with a word, for an event."""

    x: float
    name: str
    color: str


def plot_svg(
    curves: Sequence[Curve], markers: Sequence[Marker], x_label: str, y_label: str, size: tuple[int, int] = (900, 420)
) -> str:
    """A line plot as SVG text. Axes start at 0 and end at round numbers."""
    width, height = size
    left, right, top, bottom = 62, 18, 44, 52
    x_ticks = _ticks(max([value for curve in curves for value in curve.x] + [1e-9]))
    y_ticks = _ticks(max([value for curve in curves for value in curve.y] + [1e-9]))

    def px(x: float) -> float:
        return left + x / x_ticks[-1] * (width - left - right)

    def py(y: float) -> float:
        return height - bottom - y / y_ticks[-1] * (height - top - bottom)

    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' font-family='sans-serif' "
        f"font-size='14'><rect width='{width}' height='{height}' fill='white'/>"
    ]
    for tick in y_ticks:
        parts.append(
            f"<line x1='{left}' x2='{width - right}' y1='{py(tick):.1f}' y2='{py(tick):.1f}' stroke='#dde3e8'/>"
            f"<text x='{left - 8}' y='{py(tick) + 5:.1f}' text-anchor='end'>{tick:g}</text>"
        )
    for tick in x_ticks:
        parts.append(f"<text x='{px(tick):.1f}' y='{height - bottom + 20}' text-anchor='middle'>{tick:g}</text>")
    parts.append(
        f"<text x='{(left + width - right) / 2}' y='{height - 10}' text-anchor='middle'>{escape(x_label)}</text>"
        f"<text transform='translate(16 {(top + height - bottom) / 2}) rotate(-90)' text-anchor='middle'>"
        f"{escape(y_label)}</text>"
    )
    for marker in markers:
        x = px(marker.x)
        parts.append(
            f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{top}' y2='{height - bottom}' stroke='{marker.color}' "
            f"stroke-width='2' stroke-dasharray='6 4'/><text x='{x - 6:.1f}' y='{top + 14}' fill='{marker.color}' "
            f"text-anchor='end' font-weight='bold'>{escape(marker.name)}</text>"
        )
    for number, curve in enumerate(curves):
        at = [(px(x), py(y)) for x, y in zip(curve.x, curve.y, strict=True)]
        if curve.points:
            parts.extend(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.6' fill='{curve.color}'/>" for x, y in at)
        else:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
            parts.append(f"<polyline points='{line}' fill='none' stroke='{curve.color}' stroke-width='2'/>")
        parts.append(
            f"<rect x='{left + 10 + 200 * number}' y='14' width='22' height='5' fill='{curve.color}'/>"
            f"<text x='{left + 38 + 200 * number}' y='22'>{escape(curve.name)}</text>"
        )
    return "".join(parts) + "</svg>\n"


def _ticks(highest: float) -> list[float]:
    """About five round values from 0 to just above `highest`."""
    step = 10.0 ** int(f"{highest / 5:e}".split("e")[1])
    step = next(factor * step for factor in (1, 2, 2.5, 5, 10) if factor * step * 5 >= highest)
    count = 1
    while count * step < highest:
        count += 1
    return [round(number * step, 10) for number in range(count + 1)]


_STYLE = """
body{margin:0;background:#eef1f4;color:#1d2733;font:16px/1.5 system-ui,'Segoe UI','DejaVu Sans',sans-serif}
main{max-width:1060px;margin:0 auto;background:#fff;padding:0 36px 36px}
header{margin:0 -36px;padding:26px 36px;color:#fff}
header.completed{background:#1f6f54}header.stopped{background:#a3261f}header.refused{background:#7a5a12}
header h1{margin:0;font-size:19px;font-weight:500;opacity:.92}
.outcome{margin:0;font-size:32px;font-weight:700}.headline{margin:.4em 0 0;font-size:21px}
.notice{margin:0 -36px 20px;padding:9px 36px;background:#fff4cf;border-bottom:1px solid #e6d48a}
h2{font-size:20px;margin:34px 0 6px;border-bottom:2px solid #dde3e8;padding-bottom:4px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 22px}dt{color:#5a6875}dd{margin:0}
.warnings{background:#fff8e5;border-left:5px solid #d49b16;padding:2px 22px 10px;margin-top:20px}
.warnings h2{border:0;margin-top:10px}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:18px;margin-top:24px}
figure{margin:0}figure img{width:100%;border:1px solid #d4dbe1;border-radius:4px}
figcaption{color:#46525e;font-size:14px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:15px}
th{background:#f1f4f7;text-align:left}th,td{padding:6px 10px;border-bottom:1px solid #e0e6eb;vertical-align:top}
.note{color:#5a6875;margin:2px 0 8px}footer{margin-top:40px;color:#6a7681;font-size:14px}
@media print{body{background:#fff}main{max-width:none;padding:0}header,.notice{margin:0}}
"""
