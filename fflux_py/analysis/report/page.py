"""One self-contained HTML file: styles, pictures and tables inside, no script, no network.

The page follows the reader's light or dark theme (vector pictures too, through
:data:`fflux_py.analysis.report.drawing.THEME`) and prints in light.
"""

from __future__ import annotations

import base64
import html
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fflux_py.analysis.criteria import Criterion
from fflux_py.analysis.report.drawing import THEME
from fflux_py.analysis.report.page_style import STYLE
from fflux_py.errors import InputError
from fflux_py.files import write_atomically

_PNG: Final = b"\x89PNG\r\n\x1a\n"

# Text that is a number with its sign, error or range, or a dash.
_NUMBER: Final = re.compile(r"[-−]?[\d.,\u2009]*( ?[±–] ?[\d.]*)?")

Cell = str | int | float


@dataclass(frozen=True)
class Picture:
    """A picture with its caption.

    Parameters
    ----------
    content
        SVG text or PNG bytes.
    caption
        What one sees and what to conclude.
    description
        A short text for those who cannot see it.
    width
        Share of the page's width at which it is shown, in per cent.
    """

    content: str | bytes
    caption: str
    description: str
    width: int = 100


@dataclass(frozen=True)
class Table:
    """A table with its caption.

    Parameters
    ----------
    columns
        Headings, with units.
    rows
        Cells; numbers are aligned right and printed with three significant digits.
    caption
        What one sees.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.columns):
                raise InputError(f"table row {number}", f"{len(self.columns)} cells", str(len(row)))


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Parameters
    ----------
    title
        Heading.
    text
        Paragraphs, separated by empty lines.
    items
        Pictures and tables, in order.
    """

    title: str
    text: str = ""
    items: Sequence[Picture | Table] = ()


def format_number(value: Cell) -> str:
    """A figure as it is printed: three significant digits, whole numbers whole, a dash for what is not a number."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u2009")
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0.0:
        return "0"
    if float(value).is_integer() and abs(value) < 1e15:
        return format_number(int(value)).replace("-", "−")
    size = math.floor(math.log10(abs(value)))
    if -4 <= size < 6:
        return f"{value:.{max(0, 2 - size)}f}".replace("-", "−")
    mantissa, exponent = f"{value:.2e}".split("e")
    digits = str(int(exponent)).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))
    return f"{mantissa} × 10{digits}".replace("-", "−")


def format_limit(value: float) -> str:
    """A threshold as it is printed: without zeros that nobody set."""
    return format_number(value) if value.is_integer() else f"{value:.3g}"


def write_report(
    path: str | os.PathLike[str],
    title: str,
    sections: Sequence[Section],
    *,
    summary: Sequence[Criterion] = (),
    highlights: Sequence[tuple[str, Cell, str]] = (),
    provenance: Mapping[str, object] | None = None,
    subtitle: str = "",
    written: datetime | None = None,
) -> Path:
    """Write a report, whole or not at all.

    Parameters
    ----------
    path
        The HTML file.
    title, subtitle
        Heading of the page.
    sections
        What it says.
    summary
        The verdict at the top: one line for each criterion.
    highlights
        Few figures in large type: (name, value, unit).
    provenance
        Where everything comes from: digests, versions, seeds, level of theory.  Last on the page.
    written
        The time at the foot; now if not given.

    Returns
    -------
    The path, absolute.
    """
    stamp = (written or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    counter = {"Figure": 0, "Table": 0}
    body = [_head(title, subtitle, summary), _highlights(highlights), _summary(summary), _contents(sections)]
    body += [_section(number, section, counter) for number, section in enumerate(sections, start=1)]
    if provenance:
        body.append(_provenance(provenance))
    page = (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(body)}<footer>Written by fflux_py, {stamp}.</footer>\n</main>\n</body>\n</html>\n"
    )
    write_atomically(path, page)
    return Path(path).resolve()


def inline_svg(svg: str, prefix: str, description: str) -> str:
    """An SVG document as an element of a page.

    Prolog, namespaces and matplotlib's metadata go, identifiers get a prefix so that two pictures do not share them,
    and the theme's colours become CSS variables.
    """
    start = svg.find("<svg")
    if start < 0:
        raise InputError(f"picture {description!r}", "an SVG document", repr(svg[:40]))
    text = svg[start:]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text))
    names = {a or b for a, b in used}
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in names else "", text)
    text = (
        text.replace("url(#", f"url(#{prefix}-").replace('href="#', f'href="#{prefix}-').replace("xlink:href", "href")
    )
    for colour, variable in THEME.items():
        text = text.replace(colour, f"var({variable})")
    opening = text[: text.index(">")]
    box = re.search(r'viewBox="[^"]+"', opening)
    if box is None:
        raise InputError(f"picture {description!r}", "an SVG document with a viewBox", repr(opening[:80]))
    label = html.escape(description, quote=True)
    rest = re.sub(r">\s+<", "><", text[text.index(">") :])
    return f'<svg {box[0]} class="plot" role="img" aria-label="{label}"{rest.strip()}'


def _head(title: str, subtitle: str, summary: Sequence[Criterion]) -> str:
    parts = [f"<header><div><h1>{html.escape(title)}</h1>"]
    if subtitle:
        parts.append(f'<p class="subtitle">{html.escape(subtitle)}</p>')
    parts.append("</div>")
    if summary:
        passed = sum(criterion.passed for criterion in summary)
        kind = "pass" if passed == len(summary) else "fail"
        parts.append(f'<p class="verdict {kind}">{passed} of {len(summary)} criteria met</p>')
    return "".join(parts) + "</header>\n"


def _highlights(highlights: Sequence[tuple[str, Cell, str]]) -> str:
    if not highlights:
        return ""
    cards = "".join(
        f'<div class="card"><span class="name">{html.escape(name)}</span>'
        f'<span class="value">{html.escape(format_number(value))} <small>{html.escape(unit)}</small></span></div>'
        for name, value, unit in highlights
    )
    return f'<div class="cards">{cards}</div>\n'


def _summary(summary: Sequence[Criterion]) -> str:
    if not summary:
        return ""
    rows, group = [], ""
    for c in summary:
        if c.group != group:
            group = c.group
            rows.append(
                f'<tr class="group"><th colspan="4" scope="rowgroup">{html.escape(group or "General")}</th></tr>'
            )
        kind, mark = ("pass", "✓ met") if c.passed else ("fail", "✗ not met")
        note = f'<span class="note">{html.escape(c.note)}</span>' if c.note else ""
        unit = f" {html.escape(c.unit)}" if c.unit else ""
        required = html.escape(f"{c.relation} {format_limit(c.threshold)}") + unit
        rows.append(
            f'<tr><td><span class="mark {kind}">{mark}</span></td><td>{html.escape(c.name)}{note}</td>'
            f'<td class="number">{html.escape(format_number(c.value))}{unit}</td>'
            f'<td class="number">{required}</td></tr>'
        )
    return (
        '<section class="summary" id="summary"><h2>Summary</h2><div class="scroll"><table><thead><tr><th>Result</th>'
        '<th>Criterion</th><th class="number">Measured</th><th class="number">Required</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>\n"
    )


def _contents(sections: Sequence[Section]) -> str:
    if len(sections) < 3:
        return ""
    links = "".join(
        f'<li><a href="#section-{k}">{html.escape(s.title)}</a></li>' for k, s in enumerate(sections, start=1)
    )
    return f'<nav aria-label="Contents"><ol>{links}</ol></nav>\n'


def _section(number: int, section: Section, counter: dict[str, int]) -> str:
    parts = [f'<section id="section-{number}"><h2>{html.escape(section.title)}</h2>']
    parts += [f"<p>{html.escape(p.strip())}</p>" for p in section.text.split("\n\n") if p.strip()]
    for item in section.items:
        kind = "Figure" if isinstance(item, Picture) else "Table"
        counter[kind] += 1
        caption = f"<b>{kind} {counter[kind]}.</b> {html.escape(item.caption)}"
        if isinstance(item, Picture):
            drawing = _picture(item, f"f{counter[kind]}")
            parts.append(f'<figure style="--share: {item.width}%">{drawing}<figcaption>{caption}</figcaption></figure>')
        else:
            parts.append(_table(item, caption))
    return "".join(parts) + "</section>\n"


def _picture(picture: Picture, prefix: str) -> str:
    if isinstance(picture.content, str):
        return inline_svg(picture.content, prefix, picture.description)
    if not picture.content.startswith(_PNG):
        raise InputError(f"picture {picture.description!r}", "SVG text or PNG bytes", "other bytes")
    data = base64.b64encode(picture.content).decode()
    label = html.escape(picture.description, quote=True)
    return f'<img class="plot" alt="{label}" src="data:image/png;base64,{data}">'


def _table(table: Table, caption: str) -> str:
    numeric = [
        bool(table.rows) and all(not isinstance(row[k], str) or _NUMBER.fullmatch(str(row[k])) for row in table.rows)
        for k in range(len(table.columns))
    ]

    def cells(row: Sequence[Cell], tag: str) -> str:
        return "".join(
            (f'<{tag} class="number">' if number else f"<{tag}>") + html.escape(format_number(cell)) + f"</{tag}>"
            for cell, number in zip(row, numeric, strict=True)
        )

    rows = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    return (
        f'<figure class="table"><figcaption>{caption}</figcaption><div class="scroll"><table><thead><tr>'
        f"{cells(table.columns, 'th')}</tr></thead><tbody>{rows}</tbody></table></div></figure>"
    )


def _provenance(provenance: Mapping[str, object]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(str(key))}</th><td>{html.escape(str(value))}</td></tr>'
        for key, value in provenance.items()
    )
    return (
        '<section id="provenance"><h2>Provenance</h2><div class="scroll">'
        f'<table class="provenance"><tbody>{rows}</tbody></table></div></section>\n'
    )
