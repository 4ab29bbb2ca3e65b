"""Class activation maps of DeepInsight networks, mapped back to genes: which features speak for a mechanism."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.models.base import Explainer, Member, Tensors

VARYING = "varying"
"""The layer of a preprocessing that chooses the features to be drawn, where not all are."""


def explainer(members: Sequence[Member]) -> Explainer:
    """A function that tells how much each feature's neighbourhood in the image speaks for a mechanism.

    Grad-CAM weighs the channels of the last convolution by the gradient of the target's logit,
    L = relu(Σ_c α_c A_c) with α_c the mean over the image of ∂y_t/∂A_c. Behind EfficientNet's last convolution
    come only a mean over the image and a linear layer, so that this gradient is W[c, t] / (h w) everywhere and
    the map needs no backward pass. A feature's activation is the map, bilinearly interpolated, at its pixel.

    Args:
        members: (preprocessing, networks) for each fold, as `moa_tf.serving.export` takes them; all
            DeepInsight. Their activations are averaged.

    Returns:
        Function from the panel's inputs and, if given, `target` [B] int32, to `activation` [B, R] float32 (in
        units of the logit; 0 of what is not drawn) of genes, then cells, `importance` [B, R], the same as shares that
        sum to 1 (or 0 where nothing speaks for it), and `target` [B] int32; and, for pictures, the first fold's
        `features` [B, F] float32 in [0, 1], `columns` [F] int32, which of the R they are, `pixels` [F, 2] int32
        (row, column) and `image_size` int32. Without `target` each signature
        is explained for the mechanism that is most probable by the networks. It is made of Keras operations
        only, so it can be traced into a SavedModel's signature.

    Source: Selvaraju et al. 2017, Grad-CAM, section 3; Zhou et al. 2016, Learning Deep Features for
    Discriminative Localization, for the form without gradient.
    """
    parts = [
        (
            member.preprocessing,
            _last_maps(network),
            network.get_layer("logits"),
            _sampling(network, _drawn(member.preprocessing)),
        )
        for member in members
        for network in member.networks
    ]

    image = members[0].networks[0].get_layer("image")
    drawn, _ = _drawn(members[0].preprocessing)

    def explain(inputs: Mapping[str, Any]) -> Tensors:
        inputs = dict(inputs)
        target = inputs.pop("target", None)
        evidence, scaled = [], []
        for preprocessing, network, head, sampling in parts:
            # Keras 3.12 takes no input that nothing reads, so a preprocessing may lack some.
            features = preprocessing({name: inputs[name] for name in preprocessing.input}, training=False)
            scaled.append(features["features"])
            maps = ops.cast(network(features, training=False), "float32")
            height, width, channels = maps.shape[1:]
            maps = ops.reshape(maps, (-1, height * width, channels))
            evidence.append((maps, head, ops.convert_to_tensor(sampling)))
        if target is None:
            chances = sum(ops.sigmoid(head(ops.mean(maps, axis=1))) for maps, head, _ in evidence)
            target = ops.argmax(chances, axis=1)
        target = ops.cast(target, "int32")
        activation = 0.0
        for maps, head, sampling in evidence:
            weights = ops.take(ops.transpose(head.kernel), target, axis=0)
            cells = ops.squeeze(ops.matmul(maps, ops.expand_dims(weights, 2)), 2) / maps.shape[1]
            activation += ops.matmul(ops.relu(cells), sampling)
        total = ops.sum(activation, axis=1, keepdims=True)
        return {
            "activation": activation / len(evidence),
            "importance": activation / ops.where(total > 0, total, 1.0),
            "target": target,
            "features": ops.cast(scaled[0], "float32"),
            "columns": ops.convert_to_tensor(drawn, dtype="int32"),
            "pixels": ops.convert_to_tensor(image.pixels, dtype="int32"),
            "image_size": ops.convert_to_tensor(image.image_size, dtype="int32"),
        }

    return explain


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


def _last_maps(network: keras.Model) -> keras.Model:
    return keras.Model(network.input, network.get_layer("pool").input)


def _drawn(preprocessing: keras.Model) -> tuple[Sequence[int], int]:
    """Which of the raw genes and cells are drawn, and how many there are."""
    count = sum(symbol.shape[1] for symbol in preprocessing.input.values())
    layers = {layer.name: layer for layer in preprocessing.layers}
    return (layers[VARYING].columns if VARYING in layers else range(count)), count


def _sampling(network: keras.Model, drawn: tuple[Sequence[int], int]) -> np.ndarray:
    """[h w, R] weights of the map's cells in each raw feature's pixel, bilinear between cell centres."""
    image = network.get_layer("image")
    cells = network.get_layer("pool").input.shape[1:3]
    weights = []
    for axis, count in enumerate(cells):
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
    sampling = np.zeros((np.prod(cells), count), np.float32)
    sampling[:, which] = (rows[:, None] * columns[None]).reshape(-1, rows.shape[1])
    return sampling
