"""What every baseline gives, and where the baselines are listed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import numpy as np

from moa_tf.config import Config, require
from moa_tf.errors import InputError

Option = dict[str, Any]
"""One combination of what is chosen on inner folds, of JSON values."""

Fitted = Callable[[np.ndarray], Callable[..., np.ndarray]]
"""From features [B, F] to a function that gives probabilities [B, T] by an option, whose values it takes by name."""

MIN_POSITIVES = 2
"""A target with fewer positives among the rows that are fitted keeps its mean: one row is no pattern."""


@dataclass(frozen=True)
class BaselineConfig(Config):
    """A baseline's settings; each has its own beside these.

    Attributes:
        inner_folds: the training rows are split into so many, each of which is judged in turn, to choose by.
        large: above this many training signatures only one of them is judged.
    """

    inner_folds: int = 5
    large: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.inner_folds >= 2, "inner_folds", self.inner_folds, "at least 2")
        require(self.large >= 0, "large", self.large, "at least 0")


@dataclass(frozen=True)
class Problem:
    """What is fitted: rows of a training fold, or those of them that are left when some are held out to choose by.

    Attributes:
        features: [M, F] float32, none missing.
        targets: [M, T] float32, of the targets that can be fitted: both 0 and 1 are among each one's values.
        prior: [T] float64 means of the targets.
        seed: of what is random.
    """

    features: np.ndarray
    targets: np.ndarray
    prior: np.ndarray
    seed: int


@dataclass(frozen=True)
class Baseline:
    """One method, as its learner sees it.

    Attributes:
        name: as in `--model`.
        config: its settings.
        options: config -> what to choose from on inner folds. The first is taken where nothing can be held out.
        fit: (problem, config) -> fitted.
        library: the distribution that does the work, whose version is part of a run's identity; '' for none.
        parameters: (features, targets) -> how many numbers are fitted; None where that means nothing.
    """

    name: str
    config: BaselineConfig
    options: Callable[[Any], Sequence[Option]]
    fit: Callable[[Problem, Any], Fitted]
    library: str = ""
    parameters: Callable[[int, int], int] | None = None

    @property
    def library_version(self) -> str:
        """'' where there is no library."""
        return version(self.library) if self.library else ""


BASELINES: Mapping[str, str] = MappingProxyType(
    {
        "prior": "moa_tf.baselines.prior",
        "ridge": "moa_tf.baselines.ridge",
        "logistic-regression": "moa_tf.baselines.logistic_regression",
        "knn": "moa_tf.baselines.knn",
        "random-forest": "moa_tf.baselines.random_forest",
        "lightgbm": "moa_tf.baselines.lightgbm",
        "xgboost": "moa_tf.baselines.xgboost",
        "xgboost-multi": "moa_tf.baselines.xgboost:MULTI",
        "catboost": "moa_tf.baselines.catboost",
    }
)
"""Name -> module, and after a colon what it calls the baseline, if not BASELINE."""
USUAL = ("prior", "knn")
"""What is compared where nobody names any; needs no further library."""


def get_baseline(name: str) -> Baseline:
    """The baseline called `name`; its module is imported only now, and with it the library.

    Raises:
        InputError: there is none of this name, or its library is not installed.
    """
    if name not in BASELINES:
        raise InputError(f"--model {name}: expected one of {', '.join(BASELINES)}")
    module, _, attribute = BASELINES[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute or "BASELINE")
    except ModuleNotFoundError as error:
        if error.name not in ("lightgbm", "xgboost", "catboost"):
            raise
        raise InputError(f"{name}: needs moa-tf[baselines] (pip install 'moa-tf[baselines]')") from error


def mixed(probabilities: np.ndarray, prior: np.ndarray, mixing: float) -> np.ndarray:
    """(1 − `mixing`) `probabilities` + `mixing` `prior`: a share of 0 among few is not yet a probability of 0."""
    return (1 - mixing) * probabilities + mixing * prior
