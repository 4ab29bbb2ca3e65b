"""What is worth trying beside a preset: a range or some choices for a few hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moa_tf.models.base import Hyperparameters

WIDTHS = ("hidden", "units", "wide")
"""What families call the width of their layers."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, with `log` even in the logarithm; `copies` of one where the setting is a list."""

    low: float
    high: float
    log: bool = False
    copies: int = 1


@dataclass(frozen=True)
class Choice:
    """Values as `--set` has them."""

    values: tuple[str, ...]


Space = Mapping[str, Range | Choice]
"""Name of a hyperparameter -> what to try."""


def training_space(hyperparameters: Hyperparameters) -> Space:
    """Of a family that is trained by the recipe: learning rate, decay, dropout and width, around the preset's.

    The decay is left out where the recipe chooses it itself (`decays`).
    """
    architecture, recipe = hyperparameters.architecture, hyperparameters.recipe
    space: dict[str, Range | Choice] = {
        "learning_rate": Range(recipe.learning_rate / 5, recipe.learning_rate * 5, log=True)
    }
    if not recipe.decays:
        space["weight_decay"] = Range(1e-6, 1e-2, log=True)
    for name in ("dropout", "output_dropout"):
        rate = getattr(architecture, name, None)
        if rate is not None:
            space[name] = Range(0.0, 0.7, copies=len(rate) if isinstance(rate, tuple) else 1)
    for name in WIDTHS:
        width = getattr(architecture, name, None)
        if width:
            space[name] = Choice(tuple(_scaled(width, factor) for factor in (0.5, 1, 2)))
    return space


def feature_space(hyperparameters: Hyperparameters) -> Space:
    """Of a family with a solver, which chooses its own settings: how features are scaled."""
    return {
        "scaling": Choice(("standard", "rank-gauss")),
        "row_standardise": Choice(("true", "false")),
        "clip": Choice(("0", "3", "5", "10")),
    }


def _scaled(width: Any, factor: float) -> str:
    sizes = width if isinstance(width, tuple) else (width,)
    return ",".join(str(max(1, round(size * factor))) for size in sizes)
