"""Settings as frozen dataclasses that check themselves, and the recipe by which a network is trained."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

from moa_tf.errors import InputError

LARGEST_SEED = 2**32 - 1
"""Of NumPy's and Keras's generators."""

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "auto")
"""Keras dtype policies that a network can be trained with."""


def require(condition: bool, name: str, value: Any, expected: str) -> None:
    """Raises InputError with one clear line unless `condition` holds."""
    if not condition:
        raise InputError(f"{name}={value}: expected {expected}")


@dataclass(frozen=True)
class Config:
    """What all settings share: choices are checked, and the fields are plain values for `run.json`."""

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            if typing.get_origin(kinds[field.name]) is Literal:
                value, choices = getattr(self, field.name), typing.get_args(kinds[field.name])
                require(value in choices, field.name, value, "one of " + ", ".join(map(str, choices)))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def changed(self, changes: dict[str, Any]) -> Self:
        """A copy with the fields `changes`, and what follows from them."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class Recipe(Config):
    """How a network is trained, whatever its architecture.

    Attributes:
        epochs: passes over the training fold; the learning rate's schedule spans them.
        steps: optimiser steps instead: a pass over some hundred rows is a few steps, and the number of passes that
            suits a large table leaves a small one untrained. 0 goes by `epochs`.
        batch_size: global batch size, over all replicas.
        optimizer: `adam` couples weight decay to the gradient (the L2 form), `adamw` decouples it.
        learning_rate: peak learning rate.
        schedule: `one-cycle` and `cosine` move per step; `plateau` divides when the judged loss stalls.
        warmup: fraction of all steps in which one-cycle rises.
        start_divisor: one-cycle starts at learning_rate / start_divisor.
        final_divisor: one-cycle and cosine end at learning_rate / final_divisor.
        plateau_factor: plateau multiplies the learning rate by this.
        plateau_patience: epochs without improvement before plateau acts.
        early_stopping: epochs without improvement before training stops and the best weights are
            restored; 0 trains all epochs and keeps the last weights.
        weight_decay: see `optimizer`.
        decays: values to choose `weight_decay` from; none takes it as it is.
        steer: what stops early, moves `plateau` and chooses the decay. `inner`: rows of drugs that are held out of the
            training fold for that; then all of its rows are trained on by what was chosen. `scored`: the
            competition's custom, the very rows that the figures are taken on, which so flatter.
        inner_folds: the training fold is split into so many to steer, and one is held out.
        decay_all: decay biases and normalisations' γ and β too, as PyTorch does, not only what multiplies features.
        adam_epsilon: Adam's ε. The loss is a mean over targets that are mostly 0, and its gradients are small:
            1e-7 is Keras's default, 1e-8 PyTorch's, and results by either are not those by the other.
        clip_norm: global gradient norm limit; 0 for none.
        ema: decay of the exponential moving average of the weights, used for prediction; 0 for none.
        label_smoothing: labels become y (1 - s) + s / 2.
        positive_weights: `log` weighs positives by log(F_min + 100) / log(F + 100), F their count.
        jit_compile: compile the step's loss and gradients with XLA, which is quicker where they are mostly passes
            over memory, and slower on a CPU where they are mostly matrix products; several workers do without.
        train_on_controls: keep vehicle controls, with no label set, in the training rows.
        pretrain_epochs: passes over the features in self-supervised pretraining, where the family has one.
    """

    epochs: int = 30
    steps: int = 0
    batch_size: int = 256
    optimizer: Literal["adam", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "one-cycle", "cosine", "plateau"] = "one-cycle"
    warmup: float = 0.1
    start_divisor: float = 1e3
    final_divisor: float = 1e4
    plateau_factor: float = 0.1
    plateau_patience: int = 5
    early_stopping: int = 0
    weight_decay: float = 1e-5
    decays: tuple[float, ...] = ()
    steer: Literal["inner", "scored"] = "inner"
    inner_folds: int = 5
    decay_all: bool = False
    adam_epsilon: float = 1e-7
    clip_norm: float = 0.0
    ema: float = 0.0
    label_smoothing: float = 0.001
    positive_weights: Literal["none", "log"] = "none"
    jit_compile: bool = False
    train_on_controls: bool = False
    pretrain_epochs: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "batch_size", "plateau_patience", "pretrain_epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("learning_rate", "start_divisor", "final_divisor", "adam_epsilon"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        require(self.inner_folds >= 2, "inner_folds", self.inner_folds, "at least 2")
        require(min(self.decays, default=0) >= 0, "decays", self.decays, "numbers of at least 0")
        require(
            not (self.decays and self.steer == "scored"),
            "decays",
            self.decays,
            "none together with steer=scored",
        )
        for name in ("steps", "early_stopping", "weight_decay", "clip_norm"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        require(0 < self.warmup < 1, "warmup", self.warmup, "between 0 and 1")
        require(0 < self.plateau_factor <= 1, "plateau_factor", self.plateau_factor, "in (0, 1]")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")
        require(0 <= self.ema < 1, "ema", self.ema, "in [0, 1)")
        # The average takes the weights' place when training ends; stopping early would choose among others.
        require(not (self.ema and self.early_stopping), "ema", self.ema, "0 together with early_stopping")

    def changed(self, changes: dict[str, Any]) -> Self:
        # Whoever asks for epochs means them.
        return super().changed({"steps": 0, **changes} if "epochs" in changes else changes)

    @property
    def steered(self) -> bool:
        """Whether the training asks rows that it is not fitted on."""
        return self.early_stopping > 0 or self.schedule == "plateau" or len(self.decays) > 0


Settings = Mapping[str, Any] | Iterable[str]
"""Hyperparameters by name: `{"dropout": 0.3, "hidden": (1024, 1024)}`, or `key=value` strings as of `--set`."""


def to_assignments(settings: Settings | None) -> list[str]:
    """As `key=value` strings, see `override`."""
    if settings is None:
        return []
    if not isinstance(settings, Mapping):
        return [settings] if isinstance(settings, str) else list(settings)
    return [f"{key}={_to_text(value)}" for key, value in settings.items()]


def _to_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_to_text, value))
    return str(value)


Group = TypeVar("Group")


def override(group: Group, assignments: Iterable[str]) -> Group:
    """A copy of a dataclass of configs with `key=value` strings applied, each to the config that has the key.

    Args:
        group: a frozen dataclass whose fields are `Config`s that share no key.
        assignments: each value is parsed by the type of its field.

    Raises:
        InputError: unknown key, or a value that is not of the field's type or out of its range.
    """
    configs = {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}
    kinds = {
        key: (name, kind)
        for name, config in configs.items()
        for key, kind in typing.get_type_hints(type(config)).items()
    }
    changes: dict[str, dict[str, Any]] = {name: {} for name in configs}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or key not in kinds:
            raise InputError(
                f"--set {assignment}: expected key=value, with key one of {', '.join(sorted(kinds))}"
            )
        name, kind = kinds[key]
        try:
            changes[name][key] = _parse(text, kind)
        except ValueError:
            raise InputError(f"--set {assignment}: expected {_describe(kind)}") from None
    return type(group)(**{name: configs[name].changed(changes[name]) for name in configs})


def _parse(text: str, kind: Any) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if typing.get_origin(kind) is tuple:
        return tuple(_parse(part, typing.get_args(kind)[0]) for part in text.split(",") if part)
    if typing.get_origin(kind) is Literal:
        return text
    value = kind(text)
    if kind is float and math.isinf(value):  # NaN is outside of every field's range.
        raise ValueError(text)
    return value


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"a comma-separated list of {typing.get_args(kind)[0].__name__}"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, str(kind))
