"""Calibration: probabilities that are as often right as they say, by groups of mechanisms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from keras import ops
from scipy.optimize import minimize
from scipy.special import expit

from moa_tf.data.prior import PRIOR_FLOOR, label_sums
from moa_tf.ensemble.weights import FLOOR, logit

Method = Literal["none", "temperature", "isotonic"]

GROUPS = 3
PULL = 1.0
"""How strongly 1/τ is held to 1 and the bias to 0: as much as a loss of one half is at a distance of 1."""
COLDEST, HOTTEST = 0.05, 20.0


@dataclass(frozen=True)
class Temperature:
    """q = sigmoid(logit(p) / τ + b), with a temperature τ and a bias b for each group of targets.

    Attributes:
        groups: [T] number of each target's group.
        temperature: τ of each group.
        bias: b of each group.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2; Platt 1999 for the bias.
    """

    groups: tuple[int, ...]
    temperature: tuple[float, ...]
    bias: tuple[float, ...]
    method: ClassVar[str] = "temperature"

    def __call__(self, probabilities: Any) -> Any:
        """[N, T] float64 tensor -> [N, T] float64 tensor."""
        place = np.asarray(self.groups)
        scale = 1 / np.asarray(self.temperature)[place]
        return ops.sigmoid(logit_tensor(probabilities) * scale + np.asarray(self.bias)[place])

    def to_dict(self) -> dict[str, Any]:
        return {"method": self.method, **vars(self)}


@dataclass(frozen=True)
class Isotonic:
    """A rising function of the probability for each group of targets, linear between its knots.

    Attributes:
        groups: [T] number of each target's group.
        knots: of each group, probabilities in rising order and what becomes of them; two or more.

    Source: Zadrozny & Elkan 2002, Transforming Classifier Scores into Accurate Multiclass Probability Estimates.
    """

    groups: tuple[int, ...]
    knots: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]
    method: ClassVar[str] = "isotonic"

    def __call__(self, probabilities: Any) -> Any:
        """[N, T] float64 tensor -> [N, T] float64 tensor."""
        order = np.argsort(self.groups, kind="stable")
        parts = []
        for group, knots in enumerate(self.knots):
            columns = np.flatnonzero(np.asarray(self.groups) == group)
            x, y = (ops.convert_to_tensor(np.asarray(values)) for values in knots)
            values = ops.clip(ops.take(probabilities, columns, axis=1), knots[0][0], knots[0][-1])
            above = ops.searchsorted(x, ops.reshape(values, (-1,)), side="right")
            above = ops.reshape(ops.clip(above, 1, len(knots[0]) - 1), ops.shape(values))
            left, right = ops.take(x, above - 1), ops.take(x, above)
            low, high = ops.take(y, above - 1), ops.take(y, above)
            parts.append(low + (values - left) / (right - left) * (high - low))
        return ops.take(ops.concatenate(parts, axis=1), np.argsort(order), axis=1)

    def to_dict(self) -> dict[str, Any]:
        return {"method": self.method, **vars(self)}


Calibration = Temperature | Isotonic


def read_calibration(values: dict[str, Any] | None) -> Calibration | None:
    """What `to_dict` gave, after a way through JSON."""
    if values is None:
        return None
    groups = tuple(values["groups"])
    if values["method"] == "temperature":
        return Temperature(groups, tuple(values["temperature"]), tuple(values["bias"]))
    return Isotonic(groups, tuple((tuple(x), tuple(y)) for x, y in values["knots"]))


def fit_calibration(
    targets: np.ndarray, probabilities: np.ndarray, method: Method, rows: np.ndarray | None = None
) -> Calibration | None:
    """Fits one function for each third of the targets, those with the fewest positives first.

    Args:
        targets: [N, T], 0 or 1, of treated rows.
        probabilities: [N, T] for these rows, from models that have not seen them.
        method: `temperature` has the least log loss + ½ `PULL` ((1/τ − 1)² + b²); `isotonic` the least squares of
            all rising functions, within [PRIOR_FLOOR, 1 − PRIOR_FLOOR]. Its steps ask for many positives: on tables of
            some hundred signatures it is the worse for it (log loss .0663 and .1117 on NCI-60 and GDSC for a blend of
            linear, connectivity and mlp, .0627 and .1044 by temperature, .0629 and .1050 without).
        rows: [M] which rows count; None is all.
    """
    if method == "none":
        return None
    rows = np.arange(len(targets)) if rows is None else rows
    groups = _thirds(label_sums(targets, rows))
    # One after another, as each is a third of both tables in float64.
    cells = (
        [
            values[np.ix_(rows, np.flatnonzero(groups == group))].astype(np.float64).ravel()
            for values in (targets, probabilities)
        ]
        for group in range(groups.max() + 1)
    )
    numbers = tuple(groups.tolist())
    if method == "temperature":
        fitted = [_fit_temperature(y, p) for y, p in cells]
        return Temperature(numbers, *zip(*fitted, strict=True))
    return Isotonic(numbers, tuple(_fit_isotonic(y, p) for y, p in cells))


def frequency_groups(targets: np.ndarray) -> np.ndarray:
    """[T] numbers from 0: the targets in up to `GROUPS` equal parts, by their positives, fewest first."""
    return _thirds(np.asarray(targets).sum(axis=0))


def _thirds(positives: np.ndarray) -> np.ndarray:
    order = np.argsort(positives, kind="stable")
    groups = np.empty(len(order), np.int64)
    for number, members in enumerate(np.array_split(order, min(GROUPS, len(order)))):
        groups[members] = number
    return groups


def logit_tensor(probabilities: Any) -> Any:
    """`weights.logit` of a tensor."""
    p = ops.clip(probabilities, FLOOR, 1 - FLOOR)
    return ops.log(p) - ops.log1p(-p)


def _fit_temperature(y: np.ndarray, p: np.ndarray) -> tuple[float, float]:
    x = logit(p)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, bias = parameters
        z = slope * x + bias
        wrong = expit(z) - y
        pull = np.array([slope - 1, bias])
        value = np.sum(np.logaddexp(0, z) - y * z) + PULL / 2 * pull @ pull
        return value, np.array([wrong @ x, wrong.sum()]) + PULL * pull

    bounds = [(1 / HOTTEST, 1 / COLDEST), (None, None)]
    options = {"ftol": 1e-14, "gtol": 1e-6}
    slope, bias = minimize(loss, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return float(1 / slope), float(bias)


def _fit_isotonic(y: np.ndarray, p: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=PRIOR_FLOOR, y_max=1 - PRIOR_FLOOR).fit(p, y)
    x, level = fitted.X_thresholds_, fitted.y_thresholds_
    if len(x) == 1:  # All predictions are alike.
        x, level = np.array([0.0, 1.0]), np.repeat(level, 2)
    return tuple(x.tolist()), tuple(level.tolist())
