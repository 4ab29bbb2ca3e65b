"""Class activation maps of DeepInsight networks, mapped back to genes: which features speak for a mechanism."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.layers.gradient import value_and_gradients
from moa_tf.models.base import Explainer, Member, Tensors
from moa_tf.preprocessing.image import FeatureImage

LEAST_CELLS = 7
"""Cells on a side of the coarsest map that is read: that of the networks which class activation maps were made for."""

VARYING = "varying"
"""The layer of a preprocessing that chooses the features to be drawn, where not all are."""


def explainer(members: Sequence[Member]) -> Explainer:
    """A function that tells how much each feature's neighbourhood in the image speaks for a mechanism.

    HiResCAM weighs each cell of a convolution's maps A by the gradient of the target's logit there,
    L = relu(Σ_c A_c ∂y_t/∂A_c). Behind EfficientNet's last convolution come only a mean over the image and a linear
    layer, so that this gradient is W[c, t] / (h w) everywhere: the map is Grad-CAM's, and needs no backward pass. It
    has a 32nd of the image's pixels on a side, 2 of 64: where that is less than `LEAST_CELLS`, the last stage's maps
    that have as many are read instead. A feature's activation is the map, bilinearly interpolated, at its pixel.

    Args:
        members: of each fold, as `moa_tf.serving.export` takes them; all DeepInsight. Their activations are averaged.

    Returns:
        Function from the panel's inputs and, if given, `target` [B] int32, to `activation` [B, R] float32 (in
        units of the logit; 0 of what is not drawn) of genes, then cells, `importance` [B, R], the same as shares that
        sum to 1 (or 0 where nothing speaks for it), and `target` [B] int32; and, for pictures, the first fold's
        `features` [B, F] float32 in [0, 1], `columns` [F] int32, which of the R they are, `pixels` [F, 2] int32
        (row, column), `image_size` int32 and the maps' `grid` [2] int32. Without `target` each signature is explained
        for the mechanism that is most probable by the networks. It is made of Keras operations only, so it can be
        traced into a SavedModel's signature.

    Source: Draelos & Carin 2020, Use HiResCAM instead of Grad-CAM, section 3; Selvaraju et al. 2017, Grad-CAM,
    section 3; Zhou et al. 2016, Learning Deep Features for Discriminative Localization, for the form without gradient.
    """
    parts = [
        (member.preprocessing, _Maps(network, _drawn(member.preprocessing)))
        for member in members
        for network in member.networks
    ]
    first = parts[0][1]
    drawn, _ = _drawn(members[0].preprocessing)

    def explain(inputs: Mapping[str, Any]) -> Tensors:
        inputs = dict(inputs)
        target = inputs.pop("target", None)
        scaled, maps = [], []
        for preprocessing, network in parts:
            # Keras 3.12 takes no input that nothing reads, so a preprocessing may lack some.
            features = preprocessing({name: inputs[name] for name in preprocessing.input}, training=False)
            scaled.append(features["features"])
            maps.append(network.maps(features))
        if target is None:
            logits = [network.logits(each) for (_, network), each in zip(parts, maps, strict=True)]
            target = ops.argmax(sum(ops.sigmoid(each) for each in logits), axis=1)
        target = ops.cast(target, "int32")
        activation = sum(
            network.activation(each, target) for (_, network), each in zip(parts, maps, strict=True)
        )
        total = ops.sum(activation, axis=1, keepdims=True)
        return {
            "activation": activation / len(parts),
            "importance": activation / ops.where(total > 0, total, 1.0),
            "target": target,
            "features": ops.cast(scaled[0], "float32"),
            "columns": ops.convert_to_tensor(drawn, dtype="int32"),
            "pixels": ops.convert_to_tensor(first.image.pixels, dtype="int32"),
            "image_size": ops.convert_to_tensor(first.image.image_size, dtype="int32"),
            "grid": ops.convert_to_tensor(first.grid, dtype="int32"),
        }

    return explain


class _Maps:
    """A network, cut at the convolution whose maps are read."""

    def __init__(self, network: keras.Model, drawn: tuple[Sequence[int], int]) -> None:
        self.image, self.head = network.get_layer("image"), network.get_layer("logits")
        self.draw = keras.Model(network.input, self.image.output)
        backbone = network.get_layer("backbone")
        cut = self.last = backbone.output
        # Each stage's first layer gets all that the stages before it found.
        for stage in range(7, 1, -1):
            if min(cut.shape[1:3]) >= LEAST_CELLS:
                break
            cut = backbone.get_layer(f"block{stage}a_expand_conv").input
        self.grid = cut.shape[1:3]
        self.below = keras.Model(backbone.input, cut)
        self.above = None if cut is self.last else keras.Model(cut, self.last)
        self.sampling = _sampling(self.image, self.grid, drawn)

    def maps(self, features: Tensors) -> Any:
        """[B, h, w, C] float32."""
        return ops.cast(self.below(self.draw(features, training=False), training=False), "float32")

    def logits(self, maps: Any) -> Any:
        """[B, T] float32."""
        if self.above is not None:
            maps = ops.cast(self.above(maps, training=False), "float32")
        return self.head(ops.mean(maps, axis=(1, 2)))

    def activation(self, maps: Any, target: Any) -> Any:
        """[B, R] what speaks for `target` [B] at each raw feature's pixel."""
        height, width = self.grid
        if self.above is None:
            slopes = ops.take(ops.transpose(self.head.kernel), target, axis=0)
            slopes = ops.reshape(slopes, (-1, 1, 1, slopes.shape[1])) / (height * width)
        else:
            chosen = ops.one_hot(target, self.head.units, dtype="float32")
            _, (slopes,) = value_and_gradients(
                lambda values: ops.sum(self.logits(values[0]) * chosen, axis=1), [maps]
            )
        cells = ops.reshape(ops.sum(maps * slopes, axis=-1), (-1, height * width))
        return ops.matmul(ops.relu(cells), ops.convert_to_tensor(self.sampling))


def activations(
    explain: Explainer, inputs: Mapping[str, np.ndarray], target: int | None = None, batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Runs `explain` over signatures in memory, batch by batch.

    Args:
        explain: as `explainer` gives it.
        inputs: name -> [N, ...], see `Signatures.inputs`.
        target: the mechanism to explain, or None for each signature's most probable one.
        batch_size: signatures at a time; memory grows with it.

    Returns:
        ([N, F] float32 activations, [N] int32 targets).
    """
    count = len(next(iter(inputs.values())))
    results = []
    for start in range(0, count, batch_size):
        batch = {
            name: ops.convert_to_tensor(value[start : start + batch_size]) for name, value in inputs.items()
        }
        if target is not None:
            batch["target"] = ops.full((min(batch_size, count - start),), target, dtype="int32")
        result = explain(batch)
        results.append([ops.convert_to_numpy(result[name]) for name in ("activation", "target")])
    activation, targets = (np.concatenate(parts) for parts in zip(*results, strict=True))
    return activation, targets


def _drawn(preprocessing: keras.Model) -> tuple[Sequence[int], int]:
    """Which of the raw genes and cells are drawn, and how many there are."""
    count = sum(symbol.shape[1] for symbol in preprocessing.input.values())
    layers = {layer.name: layer for layer in preprocessing.layers}
    return (layers[VARYING].columns if VARYING in layers else range(count)), count


def _sampling(image: FeatureImage, grid: Sequence[int], drawn: tuple[Sequence[int], int]) -> np.ndarray:
    """[h w, R] weights of the map's cells in each raw feature's pixel, bilinear between cell centres."""
    weights = []
    for axis, count in enumerate(grid):
        place = (np.asarray(image.pixels)[:, axis] + 0.5) * count / image.image_size - 0.5
        below = np.clip(np.floor(place).astype(int), 0, count - 1)
        above = np.minimum(below + 1, count - 1)
        part = np.clip(place - below, 0, 1)
        weight = np.zeros((count, len(place)))
        np.add.at(weight, (below, np.arange(len(place))), 1 - part)
        np.add.at(weight, (above, np.arange(len(place))), part)
        weights.append(weight)
    rows, columns = weights
    which, count = drawn
    sampling = np.zeros((np.prod(grid), count), np.float32)
    sampling[:, which] = (rows[:, None] * columns[None]).reshape(-1, rows.shape[1])
    return sampling
