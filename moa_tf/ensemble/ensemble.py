"""Fitted models as one: from raw signatures to the combination of their probabilities."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.data.schema import CONTROL
from moa_tf.ensemble.combination import Combination
from moa_tf.models.base import Explainer, Member, Tensors


class Ensemble:
    """Components, and how they are combined; the models of one run are one component.

    Args:
        components: of each, its members. A component's probability is the mean of its networks'.
        combination: of the components' probabilities.
    """

    def __init__(self, components: Sequence[Sequence[Member]], combination: Combination) -> None:
        self.components, self.combination = tuple(components), combination
        # Now, as within a graph weights have no values.
        self._contents = [content_digest(member.preprocessing) for member in self.members]

    @classmethod
    def of(cls, members: Sequence[Member]) -> Ensemble:
        """The mean of all networks of one run."""
        return cls([members], Combination(np.ones(1)))

    @property
    def members(self) -> list[Member]:
        """Those of all components."""
        return [member for component in self.components for member in component]

    @property
    def networks(self) -> list[keras.Model]:
        """Those of all members."""
        return [network for member in self.members for network in member.networks]

    def probabilities(self, inputs: Tensors) -> keras.KerasTensor:
        """[B, T] float32 of the tensors of `spec.inputs`; 0 for vehicle controls. Keras operations only."""
        features: dict[str, Tensors] = {}
        means, place = [], 0
        for component in self.components:
            total, count = 0.0, 0
            for member in component:
                content = self._contents[place]
                place += 1
                if content not in features:
                    # Keras 3.12 takes no input that nothing reads, so a preprocessing may lack some.
                    read = {name: inputs[name] for name in member.preprocessing.input}
                    features[content] = member.preprocessing(read, training=False)
                for network in member.networks:
                    total += ops.sigmoid(ops.cast(network(features[content], training=False), "float32"))
                    count += 1
            means.append(total / count)
        combined = ops.cast(self.combination(means), "float32")
        if "cp_type" in inputs:
            combined = ops.where((inputs["cp_type"] == CONTROL)[:, None], 0.0, combined)
        return combined

    def describe(self) -> str:
        """The combination in words."""
        mean = "mean of the networks' probabilities"
        if len(self.components) == 1:
            parts = [mean]
        else:
            kind = "logits" if self.combination.space == "logit" else "probabilities"
            parts = [f"weighted mean of {kind} of {len(self.components)} components, each the {mean}"]
        calibration = self.combination.calibration
        return ", ".join([*parts, *([f"{calibration.method} calibration"] if calibration else [])])

    def explain(self, explainers: Sequence[Explainer], columns: int) -> Explainer:
        """What speaks for the mechanism that the whole finds most probable, by each component's own explanation.

        Args:
            explainers: of each component, see `moa_tf.models.base.Family.explain`.
            columns: R, how many `importance_columns` there are.

        Returns:
            Function from the tensors of `spec.inputs` to `importance` [B, R] float32, the mean of the components' as
            shares that sum to 1 (or 0), weighted as their probabilities are, and `target` [B] int32. Where a
            component's importance is for all mechanisms, that is what is averaged.
        """
        weights = self.combination.weights

        def explain(inputs: Tensors) -> Tensors:
            target = ops.cast(ops.argmax(self.probabilities(inputs), axis=1), "int32")
            total = 0.0
            for explainer, weight in zip(explainers, weights.astype(np.float32), strict=True):
                importance = explainer({**inputs, "target": target})["importance"]
                # What a model does not read comes last, and may be left out.
                importance = ops.pad(importance, [[0, 0], [0, columns - importance.shape[1]]])
                sums = ops.sum(importance, axis=1, keepdims=True)
                share = importance / ops.where(sums > 0, sums, 1.0)
                total += share * (ops.take(weight, target)[:, None] if weight.ndim else weight)
            return {"importance": total, "target": target}

        return explain


def content_digest(model: keras.Model) -> str:
    """Of what a model computes: its operations, whatever Keras has called them, and its weights bit by bit."""
    places = {
        operation.name: place
        for place, operation in enumerate(model.operations)
        if not isinstance(operation, keras.layers.InputLayer)
    }

    def numbered(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: numbered(each, name) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [numbered(each, key if place == 0 else "") for place, each in enumerate(value)]
        return places.get(value, value) if key in ("name", "keras_history") else value

    outputs = keras.tree.map_structure(lambda tensor: tensor._keras_history.operation.name, model.output)
    config = {
        "operations": numbered(model.get_config()["layers"]),
        "outputs": keras.tree.map_structure(lambda name: places.get(name, name), outputs),
    }
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for weight in model.weights:
        digest.update(np.ascontiguousarray(np.asarray(weight)))
    return digest.hexdigest()
