"""Figures that look the same for everyone, with names as text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def plain_style() -> Iterator[None]:
    """Matplotlib as it comes, whatever the user's matplotlibrc says, and without formulas.

    A gene or mechanism may be called `$b$` or `x_1`; as a formula that would fail, or be another name.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False
        yield


def save_figure(figure: Figure, path: Path, **options: Any) -> None:
    """Writes a figure that was made in `plain_style`: parts of it, such as ticks, are made only now."""
    with plain_style():
        figure.savefig(path, **options)
