"""What each subject of an exploration gives, and how its drawings look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from moa_tf.evaluation.page import Html, Section, details, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GREEN, GREY = "#4477aa", "#cc3311", "#228833", "#bbbbbb"
"""Treated, controls, a third kind, and what stands behind; told apart in any kind of colour vision."""

SHOWN = 250
"""Rows of a table that the page holds; the CSV file holds all."""

_LABEL = 38


@dataclass(frozen=True)
class Part:
    """One subject.

    Attributes:
        section: its place on the page.
        tables: name of a CSV file -> its rows.
        figures: its numbers, for JSON.
    """

    section: Section
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, to be filled within `plain_style`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Names the axes and takes away what says nothing."""
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def label(name: str) -> str:
    """A name as short as an axis has room for, on one line."""
    name = " ".join(name.split())
    return name if len(name) <= _LABEL else f"{name[: _LABEL - 1]}…"


def draw_bars(axes: Axes, names: Sequence[str], values: Sequence[float], colour: str = BLUE) -> None:
    """Horizontal bars with their numbers, the first on top."""
    places = range(len(names))
    bars = axes.barh(places, values, color=colour)  # places, not names: two short names may be one
    axes.set_yticks(places, [label(name) for name in names])
    axes.bar_label(bars, [f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}" for value in values],
                   fontsize=7, padding=2)  # fmt: skip
    axes.margins(x=0.18)
    axes.set_ylim(len(names) - 0.5, -0.5)


def numbers(file: str, frame: pd.DataFrame) -> Html:
    """A table as text, folded away: its first rows, where it is long."""
    some = frame.head(SHOWN)
    what = f"{file}, the first {SHOWN} of {len(frame):,} rows" if len(frame) > SHOWN else file
    return details(f"Numbers ({what})", table(what, list(some.columns), some.itertuples(index=False)))


def hide_scale(axes: Axes) -> None:
    """Takes the horizontal axis away, where the bars have their numbers beside them."""
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def percent(share: float) -> str:
    """A share in words' precision: `34 %`, `0.3 %`."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def count(number: int, what: str) -> str:
    """`1 drug`, `1,200 drugs`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
