"""One L2-regularised logistic regression a mechanism, solved to convergence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from scipy.optimize import minimize

from moa_tf.config import require
from moa_tf.data.prior import prior
from moa_tf.evaluation.metrics import mean_log_loss
from moa_tf.models.axes import principal_axes
from moa_tf.models.base import Family, Hyperparameters, Task, output_bias
from moa_tf.models.space import feature_space
from moa_tf.models.tabular import SMALL_TABLE, TabularConfig, fit_preprocessing

ROUGH, EXACT = 1e-6, 1e-11
"""Relative progress of the objective at which a solution ends: to choose a strength by, and to keep."""


@dataclass(frozen=True)
class LinearConfig(TabularConfig):
    """Logistic regressions that share their strength of regularisation.

    Attributes:
        strengths: inverse strengths C to choose from on inner folds: the coefficients' squares count ½, the log losses
            of the signatures C.
        large: above this many training signatures only two inner folds are taken, and products have float32.
    """

    scaling: Literal["rank-gauss", "standard"] = "standard"
    clip: float = 5.0
    row_standardise: bool = True
    strengths: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    large: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.strengths) > 0 and min(self.strengths) > 0,
            "strengths",
            self.strengths,
            "one or more, all above 0",
        )
        require(self.large >= 0, "large", self.large, "at least 0")


# A table's size changes how the strength is chosen, not what is fitted.
PRESETS = MappingProxyType({name: Hyperparameters(LinearConfig()) for name in ("small", "full")})


def choose_preset(signatures: int) -> str:
    """The preset for a table of that many signatures, where the user names none."""
    return "small" if signatures < SMALL_TABLE else "full"


def build(preprocessing: keras.Model, config: LinearConfig, prior: np.ndarray, seed: int) -> keras.Model:
    """The network, a Dense: before it is solved it predicts the prior.

    Args:
        preprocessing: gives `features` [B, F]; only its shape is used.
        config: unused; every family's function takes one.
        prior: [T] label means of the training fold, for the bias.
        seed: unused, as nothing here is random.

    Returns:
        Keras model from `{"features": [B, F]}` to [B, T] float32 logits.
    """
    inputs = keras.Input(preprocessing.output["features"].shape[1:], name="features")
    logits = keras.layers.Dense(
        len(prior),
        kernel_initializer="zeros",
        bias_initializer=keras.initializers.Constant(output_bias(prior)),
        dtype="float32",
        name="logits",
    )(inputs)
    return keras.Model({"features": inputs}, logits, name="linear")


class Coefficients(NamedTuple):
    """Kernel [F, T] and bias [T] float64."""

    kernel: np.ndarray
    bias: np.ndarray


class LogisticRegressions:
    """The regressions of T targets on the same rows, for one strength after another.

    min over W, b of ½ Σ W² + C Σ_i Σ_t log(1 + exp(a_it)) − y_it a_it, a = X W + b

    X is centred, which the bias makes up for, and turned into its principal axes, of which there are no more than rows:
    the optimum has no part outside them, and neither changes the penalty. There the second derivatives are close to
    1 + C q_t (1 − q_t) s_j², with the target's frequency q and the axis's squared length s². L-BFGS works on
    coefficients that are scaled by the root of that; each strength starts at the solution of the one before.

    A target without a positive, or without a negative, has its optimum at infinity: it keeps its prior and no
    coefficients.

    Args:
        x: [N, F] features.
        targets: [N, T], 0 or 1.
        prior: [T] label means, with their floor.
        dtype: of the products of matrices.

    Source: Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, 2nd ed., 4.4 and 18.3.5 (the reduction
        to the rows' space); Liu & Nocedal 1989 for L-BFGS.
    """

    def __init__(self, x: np.ndarray, targets: np.ndarray, prior: np.ndarray, dtype: str = "float64") -> None:
        self.mean = x.mean(axis=0, dtype=np.float64)
        x = x - self.mean
        self.squares, self.axes = principal_axes(x)
        self.z = (x @ self.axes).astype(dtype)
        positives = targets.sum(axis=0, dtype=np.float64)
        self.fitted = np.flatnonzero((positives > 0) & (positives < len(targets)))
        self.y = np.ascontiguousarray(targets[:, self.fitted], dtype)
        frequency = positives[self.fitted] / len(targets)
        self.variance = frequency * (1 - frequency)
        self.prior_bias = output_bias(prior).astype(np.float64)
        self.kernel = np.zeros((len(self.squares), len(self.fitted)))
        self.bias = np.log(frequency / (1 - frequency))

    def solve(self, strength: float, tolerance: float = EXACT) -> Coefficients:
        """The optimum for C = `strength`."""
        rows, size = len(self.z), self.kernel.size
        kernel_scale = np.sqrt(1 + strength * self.variance * self.squares[:, None])
        bias_scale = np.sqrt(strength * self.variance * rows)

        def coefficients(point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return point[:size].reshape(self.kernel.shape) / kernel_scale, point[size:] / bias_scale

        def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
            kernel, bias = coefficients(point)
            logits = self.z @ kernel.astype(self.z.dtype) + bias
            small = np.exp(-np.abs(logits))
            loss = np.log1p(small) + np.maximum(logits, 0) - self.y * logits
            residual = np.where(logits >= 0, 1, small) / (1 + small) - self.y
            slope = kernel + strength * (self.z.T @ residual.astype(self.z.dtype))
            value = 0.5 * np.sum(kernel**2) + strength * loss.sum()
            bias_slope = strength * residual.sum(axis=0)
            return value, np.concatenate([(slope / kernel_scale).ravel(), bias_slope / bias_scale])

        if size:
            start = np.concatenate([(self.kernel * kernel_scale).ravel(), self.bias * bias_scale])
            options = {"maxiter": 1000, "maxfun": 2000, "ftol": tolerance, "gtol": 1e-6}
            end = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
            self.kernel, self.bias = coefficients(end)
        kernel = np.zeros((len(self.mean), len(self.prior_bias)))
        bias = self.prior_bias.copy()
        kernel[:, self.fitted] = self.axes @ self.kernel
        bias[self.fitted] = self.bias - self.mean @ kernel[:, self.fitted]
        return Coefficients(kernel, bias)


def solve(network: keras.Model, task: Task, config: LinearConfig) -> dict[str, Any]:
    """Chooses the strength on the inner folds and fits the regressions on all rows.

    Args:
        network: from `build`.
        task: the training rows.
        config: the strengths.

    Returns:
        `strength`, and the `inner_log_loss` that it was chosen by, None where nothing could be held out: then the
        strongest regularisation is taken.
    """
    x, large = task.features["features"].astype(np.float64), len(task.targets) > config.large
    dtype = "float32" if large else "float64"

    def regressions(rows: np.ndarray) -> LogisticRegressions:
        means = prior(task.targets[rows][task.treated[rows]])
        return LogisticRegressions(x[rows], task.targets[rows], means, dtype)

    inner = [(regressions(rows), judged) for rows, judged in task.inner[: 2 if large else None]]
    strength, best = min(config.strengths), math.inf
    for candidate in sorted(config.strengths) if inner else ():
        losses = [
            mean_log_loss(task.targets[judged], predict(fitted.solve(candidate, ROUGH), x[judged]))
            for fitted, judged in inner
        ]
        loss = float(np.average(losses, weights=[len(judged) for _, judged in inner]))
        # From strong to weak it falls and then rises; the weak ones cost most.
        if loss >= best:
            break
        strength, best = candidate, loss
    found = regressions(np.arange(len(x))).solve(strength)
    network.get_layer("logits").set_weights([weights.astype(np.float32) for weights in found])
    return {"strength": strength, "inner_log_loss": best if inner else None}


def predict(coefficients: Coefficients, x: np.ndarray) -> np.ndarray:
    """[B, T] probabilities."""
    return 0.5 * (1.0 + np.tanh(0.5 * (x @ coefficients.kernel + coefficients.bias)))


FAMILY = Family("linear", PRESETS, choose_preset, fit_preprocessing, build, solve=solve, space=feature_space)
