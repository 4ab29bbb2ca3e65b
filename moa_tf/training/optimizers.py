"""Optimisers and learning-rate schedules by a model's config."""

from __future__ import annotations

import math
import re
from typing import Any

import keras
from keras import ops

from moa_tf.config import Recipe, require
from moa_tf.errors import InputError, whole_number


@keras.saving.register_keras_serializable(package="moa_tf")
class FusedAdam(keras.optimizers.Adam):
    """Adam and AdamW in one pass over each variable on the TensorFlow backend.

    m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², w ← w(1 − ηλ) − η √(1 − β₂ᵗ)/(1 − β₁ᵗ) · m/(√v + ε)

    Keras's own Adam makes some ten passes over memory of the size of the variable and is bound by memory;
    here TensorFlow's ResourceApplyAdam kernel does it in one. State, its names and the results (to rounding)
    are those of `keras.optimizers.Adam` and `AdamW`. On other backends Keras's own step runs.

    Weight decay, of both kinds, acts on matrices and kernels and on `g` of weight normalisation, which alone
    sets the scale of such a layer (decay of its v changes no output). Biases and the γ and β of normalisations
    are left alone, unless `decay_all`; what `exclude_from_weight_decay` names is left alone always. In float32 a
    decoupled decay of ηλ below 3e-8 a step is rounded away, as in Keras and PyTorch.

    Args:
        learning_rate: η, a float or a schedule.
        beta_1: β₁.
        beta_2: β₂.
        epsilon: ε, outside the bias correction as in Keras.
        weight_decay: λ, decoupled from the gradient (AdamW).
        l2: coupled weight decay, added to the gradient as l2 · w after clipping (`weight_decay` of PyTorch's
            Adam).
        decay_all: decay every weight.
        **kwargs: clipping, EMA, gradient accumulation: see `keras.optimizers.Optimizer`. No amsgrad.

    Source: Kingma & Ba 2015, Adam, section 2; Loshchilov & Hutter 2019, Decoupled Weight Decay
    Regularization, algorithm 2.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float = 0.0,
        l2: float = 0.0,
        decay_all: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, weight_decay=weight_decay, **kwargs)
        if self.amsgrad:
            raise InputError("amsgrad=True: FusedAdam has no such form; use keras.optimizers.Adam")
        self.l2 = l2
        self.decay_all = decay_all
        self._excluded: dict[str, list[str]] = {"paths": [], "names": []}

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Leaves variables alone in both kinds of weight decay; to be called before the first step.

        Args:
            var_list: Keras variables.
            var_names: regular expressions, each looked for in a variable's path, as in `dense_1/kernel`.
        """
        super().exclude_from_weight_decay(var_list, var_names)
        # By path, not by identity: so a saved optimiser finds them again.
        self._excluded = {
            "paths": [variable.path for variable in var_list or ()],
            "names": list(var_names or ()),
        }

    def _apply_weight_decay(self, variables: Any) -> None:
        """Nothing: update_step does it, in half the passes over memory."""

    def _clip_gradients(self, grads: Any) -> Any:
        # Under tf.distribute Keras would clip each replica's share of the gradient before they are added.
        return grads if keras.backend.backend() == "tensorflow" else super()._clip_gradients(grads)

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        grads, variables = zip(*super()._all_reduce_sum_gradients(grads_and_vars), strict=True)
        return list(zip(super()._clip_gradients(list(grads)), variables, strict=True))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if self._decays(variable):
            if self.l2:
                gradient = gradient + ops.cast(self.l2, gradient.dtype) * ops.cast(variable, gradient.dtype)
            if self.weight_decay:
                # One pass: the product's memory becomes the variable's.
                self.assign(
                    variable, variable * (1 - ops.cast(learning_rate, variable.dtype) * self.weight_decay)
                )
        if keras.backend.backend() != "tensorflow":
            super().update_step(gradient, variable, learning_rate)
            return
        self._fused_step(gradient, variable, learning_rate)

    def _decays(self, variable: Any) -> bool:
        # The name that the layer gave it: the TensorFlow variable's own also holds paths and replicas.
        named = self._trainable_variables[self._get_variable_index(variable)]
        excluded = any(_ends_alike(named.path, path) for path in self._excluded["paths"]) or any(
            re.search(name, named.path) for name in self._excluded["names"]
        )
        # Biases of members that are trained side by side are a matrix.
        matrix = len(variable.shape) > 1 and named.name != "bias"
        return not excluded and (self.decay_all or matrix or named.name == "g")

    def _fused_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        import tensorflow as tf

        if isinstance(gradient, tf.IndexedSlices):
            gradient = tf.convert_to_tensor(gradient)
        dtype = variable.dtype
        step = tf.cast(self.iterations + 1, dtype)
        index = self._get_variable_index(variable)
        # Inside a replica a distributed variable's handle is that of this replica's copy.
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.cast(self.beta_1, dtype) ** step,
            beta2_power=tf.cast(self.beta_2, dtype) ** step,
            lr=tf.cast(learning_rate, dtype),
            beta1=tf.cast(self.beta_1, dtype),
            beta2=tf.cast(self.beta_2, dtype),
            epsilon=tf.cast(self.epsilon, dtype),
            grad=tf.cast(gradient, dtype),
        )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["amsgrad"]
        return config | {"l2": self.l2, "decay_all": self.decay_all, "excluded": self._excluded}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> FusedAdam:
        config = dict(config)
        excluded = config.pop("excluded", None)
        optimizer = super().from_config(config, custom_objects)
        if excluded:
            optimizer._excluded = {key: list(values) for key, values in excluded.items()}
        return optimizer


@keras.saving.register_keras_serializable(package="moa_tf")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """One rise and one fall of the learning rate, both along half a cosine.

    Rises from peak / start_divisor at step 0 to peak at step warmup · steps − 1, then falls to
    peak / final_divisor at step steps − 1 and stays there. Where warmup · steps is below 1 the fall comes
    right after step 0. Else equal to PyTorch's `OneCycleLR` with
    `cycle_momentum=False`, `div_factor=start_divisor`, `final_div_factor=final_divisor / start_divisor`.

    Args:
        peak: largest learning rate.
        steps: optimiser steps in all.
        warmup: fraction of `steps` in which it rises, above 0 and below 1.
        start_divisor: see above.
        final_divisor: see above.

    Source: Smith & Topin 2018, Super-Convergence, section 4; the cosine form is PyTorch's.
    """

    def __init__(
        self,
        peak: float,
        steps: int,
        warmup: float = 0.1,
        start_divisor: float = 1e3,
        final_divisor: float = 1e4,
        name: str = "one_cycle",
    ) -> None:
        super().__init__()
        self.steps = whole_number("steps", steps)
        require(0 < warmup < 1, "warmup", warmup, "between 0 and 1")
        self.peak = float(peak)
        self.warmup = float(warmup)
        self.start_divisor = float(start_divisor)
        self.final_divisor = float(final_divisor)
        self.name = name

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        # At least one step apart, so that a run of very few steps does not divide by zero.
        top = max(self.warmup * self.steps - 1, 0.0)
        end = max(self.steps - 1.0, top + 1)
        start, final = self.peak / self.start_divisor, self.peak / self.final_divisor
        rise = _half_cosine(start, self.peak, step / max(top, 1e-6))
        fall = _half_cosine(self.peak, final, (step - top) / (end - top))
        return ops.where(step <= top, rise, fall)

    def get_config(self) -> dict[str, Any]:
        names = ("peak", "steps", "warmup", "start_divisor", "final_divisor", "name")
        return {name: getattr(self, name) for name in names}


def _ends_alike(path: str, other: str) -> bool:
    """Whether two paths of variables are one: a loaded model's lack the names of the models around a layer."""
    return f"/{path}".endswith(f"/{other}") or f"/{other}".endswith(f"/{path}")


def _half_cosine(start: float, end: float, fraction: Any) -> Any:
    """From start (fraction 0 or less) to end (fraction 1 or more) along half a cosine."""
    return end + (start - end) / 2 * (1 + ops.cos(math.pi * ops.clip(fraction, 0.0, 1.0)))


def make_learning_rate(config: Recipe, steps: int) -> float | Any:
    """The learning rate that `config.schedule` asks for.

    Args:
        config: the recipe.
        steps: optimiser steps in the whole training.

    Returns:
        A schedule for `one-cycle` and `cosine`; a float for `constant`, and for `plateau`, which a callback
        moves (`optimizer.learning_rate` is then a variable).
    """
    if config.schedule == "one-cycle":
        return OneCycle(
            config.learning_rate, steps, config.warmup, config.start_divisor, config.final_divisor
        )
    if config.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(
            config.learning_rate, decay_steps=max(steps - 1, 1), alpha=1 / config.final_divisor
        )
    return float(config.learning_rate)


def make_optimizer(config: Recipe, learning_rate: float | Any) -> keras.optimizers.Optimizer:
    """The optimiser that `config` asks for; create it within the strategy's scope.

    Args:
        config: `optimizer`, `weight_decay`, `decay_all`, `adam_epsilon`, `clip_norm` and `ema` are read.
        learning_rate: as `make_learning_rate` gives it.
    """
    decay = "l2" if config.optimizer == "adam" else "weight_decay"
    return FusedAdam(
        learning_rate,
        epsilon=config.adam_epsilon,
        **{decay: config.weight_decay},
        decay_all=config.decay_all,
        global_clipnorm=config.clip_norm or None,
        use_ema=config.ema > 0,
        ema_momentum=config.ema,
    )
