"""One HTML page in one file: headings, figures, tables. It needs no network and no script.

Text goes in as it is and is escaped here; what comes back is `Html`, and only `Html` is put together.
"""

from __future__ import annotations

import base64
import html
import io
import math
import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NewType

from moa_tf.explanation.figures import plain_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Html = NewType("Html", str)
"""Markup that is complete in itself, with every name in it escaped."""

UNDEFINED = "–"
"""Stands in a table for a figure that is not defined."""


@dataclass(frozen=True)
class Section:
    """A part of a page, with a heading and a place in its navigation.

    Attributes:
        anchor: its name in addresses: letters, digits and hyphens.
        title: its heading.
        parts: what it holds, in order.
    """

    anchor: str
    title: str
    parts: tuple[Html, ...]


def escape(value: Any) -> Html:
    """Any value as text: floats by four significant digits, whole numbers by thousands, None and NaN as a dash."""
    if value is None or (isinstance(value, numbers.Real) and math.isnan(value)):
        return Html(UNDEFINED)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return Html(f"{int(value):,}")
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return Html(f"{float(value):.4g}")
    return Html(html.escape(str(value)))


def paragraph(text: str) -> Html:
    """A paragraph of text."""
    return Html(f"<p>{escape(text)}</p>")


def listing(lines: Iterable[str]) -> Html:
    """A list, an item a line."""
    return Html(f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>")


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Html:
    """A table whose first column names the rows. Values are shown as `escape` has them, numbers to the right."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(f"<tr>{_row(values)}</tr>" for values in rows)
    return Html(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(summary: str, *parts: Html) -> Html:
    """Parts that are folded away until `summary` is chosen; on paper they are left out."""
    return Html(f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>")


def figure(drawing: Figure, alt: str, caption: str, *parts: Html) -> Html:
    """A drawing with its caption.

    Args:
        drawing: made within `plain_style`; it becomes an SVG inside the page, its letters drawn as paths.
        alt: what is to be seen, for those who do not see it.
        caption: what it says, with numbers.
        parts: what belongs to it, such as its numbers as a table in `details`.
    """
    file = io.BytesIO()
    # Without a date, and with names of its parts that follow from them: the same drawing gives the same page.
    with plain_style():
        import matplotlib

        matplotlib.rcParams["svg.hashsalt"] = "moa-tf"
        drawing.savefig(file, format="svg", metadata={"Date": None}, dpi=150)
    width, height = (round(96 * inches) for inches in drawing.get_size_inches())
    image = base64.b64encode(file.getvalue()).decode("ascii")
    return Html(
        f'<figure><div class="wide" tabindex="0"><img src="data:image/svg+xml;base64,{image}" alt="{escape(alt)}" '
        f'width="{width}" height="{height}"></div><figcaption>{escape(caption)}</figcaption>{"".join(parts)}</figure>'
    )


def page(title: str, lead: Sequence[Html], sections: Sequence[Section], note: str = "") -> Html:
    """The whole page.

    Args:
        title: its heading, and its name in the browser.
        lead: what stands above the navigation.
        sections: its parts.
        note: the small print at its end.
    """
    links = "".join(
        f'<li><a href="#{escape(part.anchor)}">{escape(part.title)}</a></li>' for part in sections
    )
    body = "".join(
        f'<section id="{escape(part.anchor)}" aria-labelledby="{escape(part.anchor)}-title">'
        f'<h2 id="{escape(part.anchor)}-title">{escape(part.title)}</h2>{"".join(part.parts)}</section>'
        for part in sections
    )
    return Html(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        # The browser itself sees to it that nothing is loaded from outside, whatever a name in the table holds.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f'<a class="skip" href="#main">To the contents</a><header><h1>{escape(title)}</h1>{"".join(lead)}</header>'
        f'<nav aria-label="Contents"><ul>{links}</ul></nav><main id="main">{body}</main>'
        f"<footer><p>{escape(note)}</p></footer></body></html>\n"
    )


def _row(values: Sequence[Any]) -> str:
    first, *others = values
    cells = [f'<th scope="row">{escape(first)}</th>']
    for value in others:
        number = value is None or (isinstance(value, numbers.Real) and not isinstance(value, bool))
        cells.append(f"<td{' class=n' if number else ''}>{escape(value)}</td>")
    return "".join(cells)


_STYLE = """
:root{color-scheme:light dark;--text:#1b1b1b;--back:#fff;--faint:#5a5a5a;--line:#d4d4d4;--link:#0b57a4}
@media(prefers-color-scheme:dark){:root{--text:#e6e6e6;--back:#16181b;--faint:#a8a8a8;--line:#3c3f44;--link:#8ab8ee}}
*{box-sizing:border-box}
body{margin:0 auto;padding:0 1rem 3rem;max-width:62rem;color:var(--text);background:var(--back);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.25;margin:1.5rem 0 .5rem}
h2{font-size:1.3rem;margin:2.5rem 0 .5rem;padding-top:.5rem;border-top:1px solid var(--line)}
a{color:var(--link)}
.skip{position:absolute;left:-99rem}.skip:focus{position:static}
nav ul{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;padding:0;list-style:none}
figure{margin:1.5rem 0}
figure img{display:block;max-width:100%;height:auto;background:#fff;border-radius:4px}
figcaption{margin-top:.5rem;max-width:46rem}
@media screen and (max-width:40rem){.wide{overflow-x:auto}.wide img{max-width:none;width:46rem}}
details{margin:.5rem 0}summary{cursor:pointer;color:var(--link)}
.scroll{overflow-x:auto;margin:.75rem 0;max-height:32rem}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--faint);padding-bottom:.3rem}
th,td{padding:.2rem .7rem .2rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line);
overflow-wrap:normal}
tbody th{font-weight:400}.n{text-align:right}
footer{margin-top:3rem;color:var(--faint);font-size:.9rem}
@media print{:root{--text:#000;--back:#fff;--faint:#333;--line:#bbb;--link:#000}body{max-width:none;font-size:10pt}
nav,details,.skip{display:none}figure,tr{break-inside:avoid}h2{break-after:avoid}
.scroll{overflow:visible;max-height:none}}
"""
