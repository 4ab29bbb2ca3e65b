"""Weights of a blend: on the simplex, at the minimum of a convex log loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy.special import expit

from moa_tf.evaluation.metrics import CLIP

Space = Literal["logit", "probability"]

FLOOR = 2.0**-20
"""A component's probability is cut off here, and at 1 − this, before its logit is taken: float32 knows both exactly."""

LEAST = 0.01
"""Components of a smaller weight are dropped, and the others weighted again."""

_STEPS = 100
_PROGRESS = 1e-12

Moments = tuple[float, np.ndarray, np.ndarray]
"""A loss, its slopes [M] and its second derivatives [M, M]."""


def fit_weights(targets: np.ndarray, predictions: np.ndarray, space: Space) -> np.ndarray:
    """The convex combination of components with the least mean column-wise log loss.

        min over w ≥ 0, Σ_m w_m = 1 of Σ_it −y_it ln q_it − (1 − y_it) ln(1 − q_it),
        q = Σ_m w_m p_m (`probability`), or q = sigmoid(Σ_m w_m logit p_m) (`logit`)

    Both are convex in w. Newton's method on the simplex solves them to convergence. A component whose weight is below
    `LEAST` gets 0, and the rest is solved again.

    Args:
        targets: [N, T], 0 or 1, of treated rows.
        predictions: [M, N, T] probabilities of M components for these rows, from models that have not seen them.
        space: in which the mean is taken.

    Returns:
        [M] float64, not negative, of sum 1.

    Raises:
        ValueError: shapes that do not fit.
    """
    losses = Losses(targets, predictions, space)
    weights = np.full(len(predictions), 1 / len(predictions))
    while True:
        kept = np.flatnonzero(weights)
        weights[kept] = _minimise(losses.of_all(kept), weights[kept] / weights.sum())
        small = weights[kept] < min(LEAST, weights.max())
        if not small.any():
            return weights
        weights[kept[small]] = 0


def fit_target_weights(
    targets: np.ndarray, predictions: np.ndarray, space: Space, kept: np.ndarray
) -> np.ndarray:
    """What `fit_weights` minimises, for each target by itself, over the components `kept` [K].

    Returns:
        [M, T] float64; each column sums to 1, and is 0 for the components that are not kept.
    """
    losses = Losses(targets, predictions, space)
    weights = np.zeros((len(predictions), targets.shape[1]))
    for target in range(targets.shape[1]):
        weights[kept, target] = _minimise(losses.of_one(target, kept), np.full(len(kept), 1 / len(kept)))
    return weights


def shrink(common: np.ndarray, own: np.ndarray, positives: np.ndarray, strength: float) -> np.ndarray:
    """Weights of each target between its own and the common ones: w_t = (n_t own_t + s common) / (n_t + s).

    Args:
        common: [M].
        own: [M, T].
        positives: [T] n_t, how many positives each target's own weights have been fitted on.
        strength: s > 0, in positives.

    Returns:
        [M, T].
    """
    share = np.asarray(positives) / (np.asarray(positives) + strength)
    return share * own + (1 - share) * common[:, None]


class Losses:
    """The log loss of a blend, and its derivatives by the weights.

    Args:
        targets: see `fit_weights`.
        predictions: see `fit_weights`.
        space: see `fit_weights`.
    """

    def __init__(self, targets: np.ndarray, predictions: np.ndarray, space: Space) -> None:
        targets, predictions = np.asarray(targets), np.asarray(predictions)
        if predictions.ndim != 3 or not len(predictions) or predictions.shape[1:] != targets.shape:
            raise ValueError(
                f"predictions have shape {predictions.shape}, expected [M, N, T] with M ≥ 1 and the targets' [N, T] "
                f"{targets.shape}"
            )
        self.targets, self.predictions, self.space = targets, predictions, space

    def of_one(self, target: int, kept: np.ndarray) -> Callable[[np.ndarray], Moments]:
        """Sum over rows of one target's loss, as a function of the weights of the components `kept`."""
        y = self.targets[:, target].astype(np.float64)
        x = self.predictions[kept, :, target].astype(np.float64)
        if self.space == "logit":
            x = logit(x)
            return lambda weights: _of_logits(y, x, weights)
        return lambda weights: _of_probabilities(y, x, weights)

    def of_all(self, kept: np.ndarray) -> Callable[[np.ndarray], Moments]:
        """The sum of that over targets."""
        losses = [self.of_one(target, kept) for target in range(self.targets.shape[1])]

        def moments(weights: np.ndarray) -> Moments:
            loss, slopes, curvature = 0.0, np.zeros(len(kept)), np.zeros((len(kept), len(kept)))
            for of_target in losses:
                one = of_target(weights)
                loss, slopes, curvature = loss + one[0], slopes + one[1], curvature + one[2]
            return loss, slopes, curvature

        return moments


def logit(probabilities: np.ndarray) -> np.ndarray:
    """Ln p/(1 − p) of p cut off at `FLOOR` and 1 − `FLOOR`."""
    p = np.clip(probabilities, FLOOR, 1 - FLOOR)
    return np.log(p) - np.log1p(-p)


def _of_logits(y: np.ndarray, x: np.ndarray, weights: np.ndarray) -> Moments:
    z = weights @ x
    q = expit(z)
    return float(np.sum(np.logaddexp(0, z) - y * z)), x @ (q - y), (x * (q * (1 - q))) @ x.T


def _of_probabilities(y: np.ndarray, x: np.ndarray, weights: np.ndarray) -> Moments:
    q = np.clip(weights @ x, CLIP, 1 - CLIP)
    slope = (q - y) / (q * (1 - q))
    loss = -np.sum(y * np.log(q) + (1 - y) * np.log1p(-q))
    return float(loss), x @ slope, (x * slope**2) @ x.T


def _minimise(moments: Callable[[np.ndarray], Moments], weights: np.ndarray) -> np.ndarray:
    """The minimum [M] over the simplex of a convex function, by Newton's steps from `weights`."""
    loss, slopes, curvature = moments(weights)
    for _ in range(_STEPS):
        step = _minimise_quadratic(slopes, curvature, weights) - weights
        gain = -slopes @ step
        if gain <= _PROGRESS * loss:
            break
        length, found = 1.0, moments(weights + step)
        while found[0] > loss - 1e-4 * length * gain and length > 1e-9:
            length /= 2
            found = moments(weights + length * step)
        if found[0] >= loss:  # Rounding hides what is left.
            break
        weights = weights + length * step
        loss, slopes, curvature = found
    weights = np.maximum(weights, 0)
    return weights / weights.sum()


def _minimise_quadratic(slopes: np.ndarray, curvature: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The minimum [M] over the simplex of slopes·(v − start) + ½ (v − start)ᵀ curvature (v − start).

    Source: Nocedal & Wright, Numerical Optimization, 2nd ed., algorithm 16.3 (active set).
    """
    size = len(start)
    # Components that are alike leave the minimum open: then the nearest one is taken.
    curvature = curvature + np.eye(size) * (1e-10 * np.trace(curvature) / size + 1e-300)
    place, free = start.copy(), start > 0
    for _ in range(10 * size + 10):
        gradient = slopes + curvature @ (place - start)
        inside = np.flatnonzero(free)
        # On the free ones the gradient is to be the same everywhere, as their sum is given.
        system = np.ones((len(inside) + 1, len(inside) + 1))
        system[:-1, :-1], system[-1, -1] = curvature[np.ix_(inside, inside)], 0
        solution = np.linalg.lstsq(system, np.append(-gradient[inside], 0), rcond=None)[0]
        step, level = solution[:-1], -solution[-1]
        if np.abs(step).max() <= 1e-13:
            pull = np.where(free, 0, gradient - level)
            if pull.min() >= -1e-12 * np.abs(slopes).max():
                break
            free[pull.argmin()] = True
            continue
        falling = step < 0
        limits = place[inside][falling] / -step[falling]
        length = min(1.0, limits.min(initial=1.0))
        place[inside] = place[inside] + length * step
        if length < 1:
            blocking = inside[falling][limits.argmin()]
            place[blocking], free[blocking] = 0, False
    return np.maximum(place, 0)
