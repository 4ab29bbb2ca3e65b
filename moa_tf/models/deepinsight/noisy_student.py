"""Weights of the `efficientnet` package (qubvel), noisy-student's among them, into `keras.applications`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import keras
import numpy as np

from moa_tf.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue in [0, 1]; these weights expect (x - mean) / std."""

_HEAD = {"probs": "predictions"}
"""The head's layer in the file -> in `keras.applications`. All other layers have one name in both."""


def load_noisy_student(model: keras.Model, path: Path) -> None:
    """Sets every weight of a `keras.applications` EfficientNet from a file of the `efficientnet` package.

    Both networks compute the same, but the file's fed images are normalised outside, so the model's own
    normalisation layer is set to ImageNet's mean and standard deviation; and the head has another name, by
    which Keras's loading by name would skip it without a word.

    Args:
        model: with or without its head; without it, a head in the file is left aside.
        path: `.h5` file in Keras's layout of a group for each layer.

    Raises:
        InputError: the file is not there, is not such a file, is cut off, or does not fit the model, layer for
            layer and shape for shape. The model is then unchanged.
    """
    found = _read(path)
    if any(name.startswith("normalization") for name in found):
        raise InputError(
            f"{path}: holds its own normalisation, as keras.applications saves it; expected the layout of the "
            "efficientnet package (weights=imagenet fetches keras.applications' file itself)"
        )
    wanted = {layer.name: layer for layer in model.layers if layer.weights and not _is_normalization(layer)}
    if "predictions" not in wanted:
        found.pop("predictions", None)
    _compare(path, "layers", set(found), set(wanted))
    assignments = []
    for name, layer in wanted.items():
        variables = {variable.name: variable for variable in layer.weights}
        _compare(path, f"layer {name}", set(found[name]), set(variables))
        for key, variable in variables.items():
            value = found[name][key]
            if value.shape != tuple(variable.shape):
                raise InputError(
                    f"{path}: {name}/{key} has shape {value.shape}, expected {tuple(variable.shape)}; is it "
                    "another EfficientNet's file?"
                )
            if not np.isfinite(value).all():
                raise InputError(f"{path}: {name}/{key} has values that are not finite")
            assignments.append((variable, value))
    for variable, value in assignments:
        variable.assign(value)
    set_normalization(model)


def set_normalization(model: keras.Model) -> None:
    """Sets the model's normalisation layer to ImageNet's mean and standard deviation."""
    for layer in filter(_is_normalization, model.layers):
        layer.adapt_mean.assign(IMAGENET_MEAN)
        layer.adapt_variance.assign(np.square(IMAGENET_STD))
        layer.count.assign(0)
        # The layer computes with tensors that it derives from its weights.
        layer.finalize_state()


def fetch_noisy_student(backbone: str) -> Path:
    """Downloads noisy-student weights without head into Keras's cache, with the extra moa-tf[noisy-student].

    Args:
        backbone: `b0` to `b7`.

    Raises:
        InputError: the `efficientnet` package is missing, or the file cannot be fetched.
    """
    try:
        from efficientnet.weights import NS_WEIGHTS_HASHES, NS_WEIGHTS_PATH
    except ImportError:
        raise InputError(
            "weights=noisy-student: needs the efficientnet package; pip install 'moa-tf[noisy-student]', or give "
            "the path of the .h5 file"
        ) from None
    model = f"efficientnet-{backbone}"
    file = f"{model}_noisy-student_notop.h5"
    try:
        path = keras.utils.get_file(
            file, NS_WEIGHTS_PATH + file, cache_subdir="models", file_hash=NS_WEIGHTS_HASHES[model][1]
        )
    except Exception as error:  # get_file raises bare Exceptions.
        raise InputError(f"weights=noisy-student: cannot be fetched ({one_line(error)})") from error
    return Path(path)


def one_line(error: Exception) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())


def _is_normalization(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.Normalization)


def _read(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Layer (as the model calls it) -> weight -> value."""
    if not path.is_file():
        raise InputError(f"weights={path}: expected none, imagenet, noisy-student or the path of an .h5 file")
    try:
        with h5py.File(path) as file:
            root = file.get("model_weights", file)
            if not any(name.startswith("layer_names") for name in root.attrs):
                raise InputError(
                    f"{path}: has no layer_names, expected the efficientnet package's .h5 weights"
                )
            layers = {_HEAD.get(name, name): _read_layer(root[name]) for name in _names(root, "layer_names")}
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read as .h5, it may be cut off ({one_line(error)})") from error
    return {name: weights for name, weights in layers.items() if weights}


def _read_layer(group: h5py.Group) -> dict[str, np.ndarray]:
    weights = {}
    for name in _names(group, "weight_names"):
        # `block1a_dwconv/depthwise_kernel:0`; Keras 3 calls it plain `kernel`.
        key = name.split("/")[-1].split(":")[0].removeprefix("depthwise_")
        weights[key] = np.asarray(group[name])
    return weights


def _names(group: h5py.Group, attribute: str) -> Iterator[str]:
    """A list of names, which Keras splits over `attribute0`, `attribute1`, … where it is long."""
    chunks = (
        [attribute]
        if attribute in group.attrs
        else sorted(
            (key for key in group.attrs if key.startswith(attribute)),
            key=lambda key: int(key[len(attribute) :]),
        )
    )
    for chunk in chunks:
        for name in group.attrs[chunk]:
            yield name.decode() if isinstance(name, bytes) else str(name)


def _compare(path: Path, what: str, found: set[str], expected: set[str]) -> None:
    for kind, names in (("lacks", expected - found), ("has more than expected:", found - expected)):
        if names:
            first = ", ".join(sorted(names)[:3])
            raise InputError(
                f"{path}: {what} {kind} {first} ({len(names)} in all); is it another network's file?"
            )
