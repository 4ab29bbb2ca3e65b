"""What every model family gives, and the hyperparameters that all of them share."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from moa_tf.errors import InputError

if TYPE_CHECKING:
    import keras

    from moa_tf.data.schema import Signatures


@dataclass(frozen=True)
class ModelConfig:
    """Hyperparameters of training that every family has; a family's own config adds its architecture's.

    Attributes:
        epochs: passes over the training fold.
        batch_size: global batch size, over all replicas.
        optimizer: `adam` couples weight decay to the gradient (the L2 form), `adamw` decouples it.
        learning_rate: peak learning rate.
        schedule: `one-cycle` and `cosine` move per step; `plateau` divides when validation loss stalls.
        warmup: fraction of all steps in which one-cycle rises.
        start_divisor: one-cycle starts at learning_rate / start_divisor.
        final_divisor: one-cycle and cosine end at learning_rate / final_divisor.
        plateau_factor: plateau multiplies the learning rate by this.
        plateau_patience: epochs without improvement before plateau acts.
        early_stopping: epochs without improvement before training stops and the best weights are
            restored; 0 trains all epochs and keeps the last weights.
        weight_decay: see `optimizer`.
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
    """

    epochs: int = 30
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
    decay_all: bool = False
    adam_epsilon: float = 1e-7
    clip_norm: float = 0.0
    ema: float = 0.0
    label_smoothing: float = 0.001
    positive_weights: Literal["none", "log"] = "none"
    jit_compile: bool = False
    train_on_controls: bool = False

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(0 < self.warmup < 1, "warmup", self.warmup, "between 0 and 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        require(self.adam_epsilon > 0, "adam_epsilon", self.adam_epsilon, "above 0")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")
        require(0 <= self.ema < 1, "ema", self.ema, "in [0, 1)")
        # The average takes the weights' place when training ends; stopping early would choose among others.
        require(not (self.ema and self.early_stopping), "ema", self.ema, "0 together with early_stopping")
        for field in dataclasses.fields(self):
            kind = typing.get_type_hints(type(self))[field.name]
            if typing.get_origin(kind) is Literal:
                value, choices = getattr(self, field.name), typing.get_args(kind)
                require(value in choices, field.name, value, "one of " + ", ".join(map(str, choices)))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def require(condition: bool, name: str, value: Any, expected: str) -> None:
    """Raises InputError with one clear line unless `condition` holds."""
    if not condition:
        raise InputError(f"{name}={value}: expected {expected}")


def override(config: ModelConfig, assignments: Iterable[str]) -> ModelConfig:
    """A copy of `config` with `key=value` strings applied, each parsed by the type of its field.

    Raises:
        InputError: unknown key, or a value that is not of the field's type.
    """
    kinds = typing.get_type_hints(type(config))
    values = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or key not in kinds:
            raise InputError(
                f"--set {assignment}: expected key=value, with key one of {', '.join(sorted(kinds))}"
            )
        try:
            values[key] = _parse(text, kinds[key])
        except ValueError:
            raise InputError(f"--set {assignment}: expected {_describe(kinds[key])}") from None
    return dataclasses.replace(config, **values)


def _parse(text: str, kind: Any) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if typing.get_origin(kind) is tuple:
        return tuple(_parse(part, typing.get_args(kind)[0]) for part in text.split(",") if part)
    if typing.get_origin(kind) is Literal:
        return text
    return kind(text)


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"a comma-separated list of {typing.get_args(kind)[0].__name__}"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, str(kind))


@dataclass(frozen=True)
class Family:
    """One kind of model, as training, export and explanation see it.

    A model is preprocessing ∘ network. `fit_preprocessing` gets the training fold's rows alone and returns a
    Keras model from `spec.inputs` (see SignatureSpec) to a dict of named features; its outputs are computed
    once a fold and kept in memory. `build` returns the network: a Keras model whose inputs carry the names
    and shapes of the preprocessing's outputs, and whose output is [B, T] float32 logits.

    Attributes:
        name: as in `--model`.
        presets: name -> config.
        choose_preset: number of training rows -> preset name, used when the user names none.
        fit_preprocessing: (signatures, config, seed) -> keras.Model.
        build: (preprocessing, config, prior, seed) -> keras.Model. `prior` is [T] float, the label means of
            the training fold, for the output bias; its length is the number of targets.
        callbacks: config -> Keras callbacks that its training needs beside what every family's does.
        synchronise: take batch statistics over all replicas. TensorFlow walks the whole graph for each of these
            sums when it traces a step, which is nothing for ten layers and many minutes for an EfficientNet.
    """

    name: str
    presets: Mapping[str, ModelConfig]
    choose_preset: Callable[[int], str]
    fit_preprocessing: Callable[[Signatures, Any, int], keras.Model]
    build: Callable[[keras.Model, Any, np.ndarray, int], keras.Model]
    callbacks: Callable[[Any], list[keras.callbacks.Callback]] = lambda config: []
    synchronise: bool = True


FAMILIES: Mapping[str, str] = MappingProxyType(
    {"mlp": "moa_tf.models.mlp", "tabnet": "moa_tf.models.tabnet", "deepinsight": "moa_tf.models.deepinsight"}
)


def get_family(name: str) -> Family:
    """The family called `name`; its module is imported only now, and with it Keras."""
    if name not in FAMILIES:
        raise InputError(f"--model {name}: expected one of {', '.join(FAMILIES)}")
    return importlib.import_module(FAMILIES[name]).FAMILY


def output_bias(prior: np.ndarray) -> np.ndarray:
    """[T] logits of the label means, kept within what one positive in a hundred thousand would give."""
    prior = np.clip(np.asarray(prior, np.float64), 1e-5, 1 - 1e-5)
    return np.log(prior / (1 - prior)).astype(np.float32)
