"""A Keras model on NumPy arrays in inference, a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np

from moa_tf.training import backends


def fitting_batch_size(models: Sequence[keras.Model]) -> int:
    """How many signatures to compute at once: a power of two, at most 4096.

    So many that the widest layer's output stays within 128 MB, of which a few live at the same time: thousands
    for an MLP, less than ten for a convolutional network on large images.
    """
    fits = max(1, min(4096, (128 << 20) // (4 * max(map(_widest, models)))))
    return 1 << (fits.bit_length() - 1)


def _widest(model: keras.Model) -> int:
    """The most values that one layer gives for one signature."""
    sizes = [1]
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            sizes.append(_widest(layer))
        else:
            outputs = keras.tree.flatten(layer.output)
            sizes += [math.prod(size or 1 for size in output.shape[1:]) for output in outputs]
    return max(sizes)


class Inference:
    """A Keras model, called on NumPy arrays in inference, a batch at a time.

    Unlike Keras's `predict` it does the same under every distribution strategy, so that each worker of several can
    score the held-out rows by itself.

    Args:
        model: Keras model whose inputs are a dict.
    """

    def __init__(self, model: keras.Model) -> None:
        self.names = list(model.input)
        self.batch_size = fitting_batch_size([model])
        self.run = backends.current().inference(model)

    def __call__(
        self, inputs: dict[str, np.ndarray], batch_size: int | None = None
    ) -> dict[str, np.ndarray] | np.ndarray:
        """The model's output for `inputs` (name -> [N, ...], more than it reads if need be): [N, ...] or a dict."""
        rows = len(next(iter(inputs.values())))
        batch_size = batch_size or self.batch_size
        blocks = []
        for start in range(0, max(rows, 1), batch_size):
            blocks.append(self.run({name: inputs[name][start : start + batch_size] for name in self.names}))
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *blocks)
