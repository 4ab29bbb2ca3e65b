"""Batches from memory for `fit`, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from moa_tf.data.storage import ALIGNMENT, is_bfloat16


def training_batches(
    features: dict[str, np.ndarray],
    targets: np.ndarray,
    rows: np.ndarray,
    batch_size: int,
    passes: range,
    seed: int,
) -> tf.data.Dataset:
    """Shuffled batches of whole passes, one after another; a pass's last, incomplete batch is left out.

    The order within pass e is a function of (seed, e). So training that goes on from pass e sees the batches
    that it would have seen without the interruption, and every replica and worker agrees on them.

    Args:
        features: name -> [N, ...], the network's inputs; batches of those in bfloat16 are float32.
        targets: [N, T] float32.
        rows: [M] int, the rows to train on.
        batch_size: rows in a batch, at most M.
        passes: which passes over the rows, counted from 0.
        seed: any integer.

    Returns:
        Dataset of (features, targets) with `len(passes) * (M // batch_size)` batches.
    """
    # NumPy hands bfloat16 to no other library, but its bits.
    half = [name for name, values in features.items() if is_bfloat16(values)]
    features = {**features, **{name: features[name].view(np.uint16) for name in half}}
    with tf.device("CPU:0"):
        table = {name: _as_variable(values) for name, values in features.items()}
        labels = _as_variable(targets)
        index = tf.convert_to_tensor(np.asarray(rows, np.int64))

    def order(number: tf.Tensor) -> tf.data.Dataset:
        shuffled = tf.random.experimental.stateless_shuffle(
            index, seed=tf.stack([tf.constant(seed, tf.int64), number])
        )
        return tf.data.Dataset.from_tensor_slices(shuffled).batch(batch_size, drop_remainder=True)

    def gather(batch: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        # A gather of the variable itself would make a copy that is its own.
        inputs = {name: tf.gather(values.read_value(), batch) for name, values in table.items()}
        for name in half:
            inputs[name] = tf.cast(tf.bitcast(inputs[name], tf.bfloat16), tf.float32)
        return inputs, tf.gather(labels.read_value(), batch)

    # Gathering a batch is a copy of about a megabyte: one thread keeps ahead of any step.
    batches = tf.data.Dataset.range(passes.start, passes.stop).flat_map(order).map(gather)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    return batches.with_options(options).prefetch(2)


def _as_variable(values: np.ndarray) -> tf.Variable:
    """`values` themselves where TensorFlow can read them as they lie, in memory or in a mapped file; else a copy.

    A variable, as whatever rewrites a pipeline (deterministic operations, automatic sharding) copies its tensors.
    """
    flags = values.flags
    if values.size and flags.c_contiguous and flags.writeable and values.ctypes.data % ALIGNMENT == 0:
        values = tf.experimental.dlpack.from_dlpack(values.__dlpack__())
    return tf.Variable(values, trainable=False)
