"""A Keras model on NumPy arrays in inference, a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from moa_tf.data.storage import Memory, Storage, blocks, read
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
        self,
        inputs: dict[str, np.ndarray],
        batch_size: int | None = None,
        rows: np.ndarray | None = None,
        storage: Storage | None = None,
        floats: np.dtype | None = None,
    ) -> dict[str, np.ndarray] | np.ndarray:
        """The model's output.

        Args:
            inputs: name -> [N, ...], more than it reads if need be.
            batch_size: by default as many as fit.
            rows: [M] which of them, in which order; by default all.
            storage: where the output goes; by default memory.
            floats: the kind of numbers to keep floating-point output in; by default what it is.

        Returns:
            [M, ...], or a dict of these.
        """
        whole: Any = None
        for part, outputs in self.blocks(inputs, batch_size, rows):
            if whole is None:
                empty = self._empty(_count(inputs, rows), storage or Memory(), floats)
                whole = keras.tree.map_structure(empty, outputs)
            for array, values in zip(keras.tree.flatten(whole), keras.tree.flatten(outputs), strict=True):
                array[part] = values
        return whole

    def blocks(
        self, inputs: dict[str, np.ndarray], batch_size: int | None = None, rows: np.ndarray | None = None
    ) -> Iterator[tuple[slice, Any]]:
        """The output batch by batch, each with its place; one without rows where there are none."""
        count = _count(inputs, rows)
        batch_size = batch_size or self.batch_size
        for part in blocks(count, batch_size) if count else [slice(0, 0)]:
            which = part if rows is None else rows[part]
            yield part, self.run({name: read(inputs[name], which) for name in self.names})

    @staticmethod
    def _empty(count: int, storage: Storage, floats: np.dtype | None) -> Callable[[np.ndarray], np.ndarray]:
        def empty(values: np.ndarray) -> np.ndarray:
            kind = floats if floats is not None and values.dtype.kind == "f" else values.dtype
            return storage.empty((count, *values.shape[1:]), kind)

        return empty


def _count(inputs: dict[str, np.ndarray], rows: np.ndarray | None) -> int:
    return len(next(iter(inputs.values())) if rows is None else rows)
