"""Features to images, batch by batch inside the network, and noise that swaps features between signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from moa_tf.errors import InputError, whole_number

Channels = Literal["grey", "mean-min-max"]


@keras.saving.register_keras_serializable(package="moa_tf")
class FeatureImage(keras.layers.Layer):
    """Draws each signature's features on their pixels.

    First the features that share a pixel are reduced, over the occupied pixels alone (fewer than a thousand
    for the L1000 panel), then those are scattered into an image of zeros. So the work is that of filling the
    batch's memory once, and no image is stored longer than its batch.

    Args:
        pixels: F (row, column) pairs, `FeatureMap.pixels`.
        image_size: pixels on a side.
        channels: what red, green and blue hold: `grey` three times the mean of a pixel's features,
            `mean-min-max` their mean, their minimum and their maximum.

    Call arguments:
        features: [B, F] float.

    Returns:
        [B, H, W, 3]; 0 where no feature lies.

    Raises:
        InputError: pixels that are no pairs or lie outside of the image, or an unknown choice of channels.

    Source: Sharma et al. 2019, DeepInsight, Methods. `mean-min-max` is the choice of the first place in the
    Mechanisms of Action competition.
    """

    def __init__(
        self,
        pixels: Sequence[Sequence[int]],
        image_size: int,
        channels: Channels = "mean-min-max",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        image_size = whole_number("image_size", image_size)
        table = np.asarray(pixels, np.int32)
        if (
            not len(table)
            or table.ndim != 2
            or table.shape[1] != 2
            or (table < 0).any()
            or (table >= image_size).any()
        ):
            raise InputError(f"FeatureImage: expected pixels as [F, 2] within {image_size} x {image_size}")
        if channels not in ("grey", "mean-min-max"):
            raise InputError(f"FeatureImage: channels={channels}, expected grey or mean-min-max")
        self.pixels = table.tolist()
        self.image_size = image_size
        self.channels = channels
        self._occupied, self._members, self._share = _group_by_pixel(table, image_size)

    def call(self, features: Any) -> Any:
        # A loop over the places in a pixel, of which there are few, beats reducing a short last axis.
        values = [ops.take(features, place, axis=1) for place in self._members]
        shares = [ops.convert_to_tensor(share, dtype=features.dtype) for share in self._share]
        mean = sum(value * share for value, share in zip(values, shares, strict=True))
        if self.channels == "grey":
            colours = [mean, mean, mean]
        else:
            low = high = values[0]
            for value in values[1:]:
                low, high = ops.minimum(low, value), ops.maximum(high, value)
            colours = [mean, low, high]
        batch, area = ops.shape(features)[0], self.image_size**2
        rows = ops.expand_dims(ops.arange(batch, dtype="int32") * area, 1) + self._occupied
        flat = ops.scatter(
            ops.reshape(rows, (-1, 1)), ops.reshape(ops.stack(colours, axis=-1), (-1, 3)), (batch * area, 3)
        )
        return ops.reshape(flat, (batch, self.image_size, self.image_size, 3))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], self.image_size, self.image_size, 3)

    def get_config(self) -> dict[str, Any]:
        names = ("pixels", "image_size", "channels")
        return super().get_config() | {name: getattr(self, name) for name in names}


def _group_by_pixel(pixels: np.ndarray, image_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The occupied pixels and which features lie on each.

    Returns:
        [P] int32 index of each occupied pixel in the flattened image; [K, P] int32 features on each pixel, K
        the most that share one, where a pixel with fewer repeats its first (which changes neither minimum
        nor maximum); [K, P] float32 weights of the mean, 0 for the repeats.
    """
    flat = pixels[:, 0] * image_size + pixels[:, 1]
    occupied, pixel, count = np.unique(flat, return_inverse=True, return_counts=True)
    order = np.argsort(pixel, kind="stable")
    start = np.cumsum(count) - count
    place = np.arange(count.max())[:, None]
    taken = place < count
    members = order[start + np.where(taken, place, 0)]
    return occupied.astype(np.int32), members.astype(np.int32), (taken / count).astype(np.float32)


@keras.saving.register_keras_serializable(package="moa_tf")
class SwapNoise(keras.layers.Layer):
    """In training, some signatures get some of their features from another signature of the batch.

    Args:
        rate: probability that a signature is changed.
        portion: probability that a feature of a changed signature is swapped.
        seed: of the noise.

    Call arguments:
        features: [B, F] float.
        training: without it the features pass unchanged.

    Returns:
        [B, F].

    Raises:
        InputError: rate or portion outside [0, 1].

    Source: first place of the Mechanisms of Action competition, DeepInsight models: rate 0.1, portion 0.15.
    """

    def __init__(
        self, rate: float = 0.1, portion: float = 0.15, seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not (0 <= rate <= 1 and 0 <= portion <= 1):
            raise InputError(f"SwapNoise: rate={rate}, portion={portion}, expected both in [0, 1]")
        self.rate = float(rate)
        self.portion = float(portion)
        self.seed = whole_number("seed", seed, least=0, optional=True)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def call(self, features: Any, training: bool | None = None) -> Any:
        if not training or self.rate == 0 or self.portion == 0:
            return features
        batch, count = ops.shape(features)
        generator = self.seed_generator
        # A batch without rows draws no donor, but the range to draw from must not be empty.
        most = max(batch, 1) if isinstance(batch, int) else ops.maximum(batch, 1)
        donor = keras.random.randint((batch,), 0, most, seed=generator)
        changed = keras.random.uniform((batch, 1), seed=generator) < self.rate
        swapped = keras.random.uniform((batch, count), seed=generator) < self.portion
        return ops.where(ops.logical_and(changed, swapped), ops.take(features, donor, axis=0), features)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"rate": self.rate, "portion": self.portion, "seed": self.seed}
