"""Batches from memory for `fit`, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf


def training_batches(
    features: dict[str, np.ndarray],
    targets: np.ndarray,
    rows: np.ndarray,
    batch_size: int,
    epochs: range,
    seed: int,
) -> tf.data.Dataset:
    """Shuffled batches of whole epochs, one after another; an epoch's last, incomplete batch is left out.

    The order within epoch e is a function of (seed, e). So training that goes on from epoch e sees the batches
    that it would have seen without the interruption, and every replica and worker agrees on them.

    Args:
        features: name -> [N, ...], the network's inputs.
        targets: [N, T] float32.
        rows: [M] int, the rows to train on.
        batch_size: rows in a batch, at most M.
        epochs: which epochs, counted from 0.
        seed: any integer.

    Returns:
        Dataset of (features, targets) with `len(epochs) * (M // batch_size)` batches.
    """
    with tf.device("CPU:0"):
        table = {name: tf.convert_to_tensor(values) for name, values in features.items()}
        labels = tf.convert_to_tensor(targets)
        index = tf.convert_to_tensor(np.asarray(rows, np.int64))

    def order(epoch: tf.Tensor) -> tf.data.Dataset:
        shuffled = tf.random.experimental.stateless_shuffle(
            index, seed=tf.stack([tf.constant(seed, tf.int64), epoch])
        )
        return tf.data.Dataset.from_tensor_slices(shuffled).batch(batch_size, drop_remainder=True)

    def gather(batch: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        return {name: tf.gather(values, batch) for name, values in table.items()}, tf.gather(labels, batch)

    # Gathering a batch is a copy of about a megabyte: one thread keeps ahead of any step.
    batches = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(order).map(gather)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    return batches.with_options(options).prefetch(2)


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
    """A Keras model, called on NumPy arrays in inference, a batch at a time in one graph.

    Unlike Keras's `predict` it does the same under every distribution strategy, so that each worker of several can
    score the held-out rows by itself.

    Args:
        model: Keras model whose inputs are a dict.
    """

    def __init__(self, model: keras.Model) -> None:
        self.names = list(model.input)
        self.batch_size = fitting_batch_size([model])
        signature = {name: tf.TensorSpec(tensor.shape, tensor.dtype) for name, tensor in model.input.items()}
        self.graph = tf.function(lambda batch: model(batch, training=False), input_signature=[signature])

    def __call__(
        self, inputs: dict[str, np.ndarray], batch_size: int | None = None
    ) -> dict[str, np.ndarray] | np.ndarray:
        """The model's output for `inputs` (name -> [N, ...], more than it reads if need be): [N, ...] or a dict."""
        rows = len(next(iter(inputs.values())))
        batch_size = batch_size or self.batch_size
        blocks = []
        for start in range(0, max(rows, 1), batch_size):
            batch = {
                name: tf.convert_to_tensor(inputs[name][start : start + batch_size]) for name in self.names
            }
            blocks.append(tf.nest.map_structure(lambda tensor: tensor.numpy(), self.graph(batch)))
        return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *blocks)
