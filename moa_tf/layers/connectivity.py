"""Connectivity: what a signature is most similar to, among references that the layer holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.errors import InputError, whole_number
from moa_tf.layers.shapes import known_size

SMALLEST = 1e-7
"""Probabilities are kept that far from 0 and 1, so that their logits are finite."""


@keras.saving.register_keras_serializable(package="moa_tf")
class Connectivity(keras.layers.Layer):
    """Logits of the labels of references, weighted by similarity and mixed with the prior.

    u = (x − m) P / |(x − m) P|,  s_r = u · v_r,  a = softmax(s / τ),  p = (1 − ε) Σ_r a_r y_r + ε π,  z = log p/(1 − p)

    with the mean m, the projection P, the references' unit vectors v and labels y, the temperature τ, the share ε of
    the prior π. Nothing is trained by gradients: `hold` sets all of it. Until then z is the logit of π.

    Args:
        targets: T, number of labels.
        ids: names of the R references.
        dimensions: D, of the space that they are compared in.

    Input: [B, F]. Output: [B, T] logits.

    Examples:
        >>> import keras, numpy as np
        >>> from moa_tf.layers import Connectivity
        >>> layer, references = Connectivity(targets=2), np.array([[1.0, 0.0], [0.0, 1.0]], "float32")
        >>> layer.build((None, 2))
        >>> layer.hold(["a", "b"], references, np.eye(2), mean=np.zeros(2), projection=np.eye(2), temperature=0.1,
        ...            mixing=0.2, prior=np.array([0.5, 0.5]))
        >>> np.array(keras.ops.sigmoid(layer(references[:1])), float).round(2).tolist()
        [[0.9, 0.1]]

    Source: Lamb et al. 2006, The Connectivity Map; Vinyals et al. 2016, Matching Networks, equation 1, for the softmax
        over similarities.
    """

    def __init__(self, targets: int, ids: Sequence[str] = (), dimensions: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.targets = whole_number("targets", targets)
        self.ids = tuple(str(name) for name in ids)
        self.dimensions = whole_number("dimensions", dimensions, least=0)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.features = known_size(input_shape)
        self.prior = self._constant("prior", (self.targets,))
        if self.ids:
            self._make_references()

    def _constant(self, name: str, shape: tuple[int, ...], dtype: str | None = None) -> keras.Variable:
        return self.add_weight(shape, "zeros", dtype=dtype, trainable=False, name=name)

    def _make_references(self) -> None:
        self.mean = self._constant("mean", (self.features,))
        self.projection = self._constant("projection", (self.features, self.dimensions))
        self.references = self._constant("references", (len(self.ids), self.dimensions))
        self.labels = self._constant("labels", (len(self.ids), self.targets), "uint8")
        self.log_temperature = self._constant("log_temperature", ())
        self.mixing = self._constant("mixing", ())

    def hold(
        self,
        ids: Sequence[str],
        references: np.ndarray,
        labels: np.ndarray,
        *,
        mean: np.ndarray,
        projection: np.ndarray,
        temperature: float,
        mixing: float,
        prior: np.ndarray,
    ) -> None:
        """Takes the references, of which so far there were none.

        Args:
            ids: R names.
            references: [R, F] signatures.
            labels: [R, T], 0 or 1.
            mean: [F] m.
            projection: [F, D] P.
            temperature: τ.
            mixing: ε, in (0, 1].
            prior: [T] π, in (0, 1).

        Raises:
            InputError: no references, or there are some already.
        """
        if self.ids or not len(ids):
            raise InputError(
                f"ids: expected one or more, once; there are {len(self.ids)}, and {len(ids)} come"
            )
        self.ids, self.dimensions = tuple(str(name) for name in ids), projection.shape[1]
        # How many there are is known only now. Keras itself adds the weights of LoRA to a built layer so.
        self._tracker.unlock()
        self._make_references()
        self._tracker.lock()
        projected = (references - mean) @ projection
        self.references.assign(projected / np.sqrt(np.sum(projected**2, axis=1, keepdims=True) + 1e-12))
        self.labels.assign(labels.astype(np.uint8))
        self.mean.assign(mean)
        self.projection.assign(projection)
        self.log_temperature.assign(np.log(temperature))
        self.mixing.assign(mixing)
        self.prior.assign(prior)

    def similarity(self, inputs: Any) -> Any:
        """[B, R] cosines of signatures [B, F] and references; Pearson correlations where P only rotates."""
        projected = ops.matmul(inputs - self.mean, self.projection)
        size = ops.sqrt(ops.sum(ops.square(projected), axis=1, keepdims=True) + 1e-12)
        return ops.matmul(projected / size, ops.transpose(self.references))

    def attention(self, similarity: Any) -> Any:
        """[B, R] weights of the references, which sum to 1."""
        return ops.softmax(similarity / ops.exp(self.log_temperature), axis=1)

    def call(self, inputs: Any) -> Any:
        prior = ops.zeros_like(inputs[:, :1]) + self.prior
        if self.ids:
            near = self.attention(self.similarity(inputs))
            mean = ops.matmul(near, ops.cast(self.labels, near.dtype))
            probability = (1 - self.mixing) * mean + self.mixing * prior
        else:
            probability = prior
        probability = ops.clip(probability, SMALLEST, 1 - SMALLEST)
        return ops.log(probability) - ops.log1p(-probability)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.targets)

    def get_config(self) -> dict[str, Any]:
        config = {"targets": self.targets, "ids": list(self.ids), "dimensions": self.dimensions}
        return {**super().get_config(), **config}
