"""Where an MLP's training step spends its time: its parts by themselves, as Keras has them and as they are here.

    python benchmarks/mlp_parts.py [--rounds 30]

CPU milliseconds of all threads, forward and backward unless stated, at 256 rows and 2,048 units; medians of turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from turns import THREADS, pin

from moa_tf.layers import ByteDropout, FastBatchNormalization, WeightNormDense

ROWS, UNITS, TURN = 256, 2048, 10


def step(layer):
    """Forward and backward through a layer, as a graph."""
    layer.build((None, UNITS))
    x, upstream = tf.random.normal((ROWS, UNITS)), tf.random.normal((ROWS, UNITS))

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        # The output is returned too, or TensorFlow leaves it out where the gradient does without.
        return y, tape.gradient(y, [x, *layer.trainable_variables], upstream)

    return run


def product(function):
    x, upstream = tf.random.normal((ROWS, UNITS)), tf.random.normal((ROWS, UNITS))
    weights = tf.random.normal((UNITS, UNITS))
    return tf.function(lambda: function(x, weights, upstream))


def norms(function):
    values = tf.random.normal((UNITS, UNITS))
    return tf.function(lambda: function(values))


def parts():
    """Name -> (as Keras has it or None, as it is here)."""
    ones = tf.ones((1, UNITS))
    return {
        "batch normalisation": (step(keras.layers.BatchNormalization()), step(FastBatchNormalization())),
        "dropout": (step(keras.layers.Dropout(0.25)), step(ByteDropout(0.25))),
        "product x W, forward": (None, product(lambda x, w, u: x @ w)),
        "gradient u Wᵀ": (
            product(lambda x, w, u: tf.matmul(u, w, transpose_b=True)),
            product(lambda x, w, u: tf.transpose(tf.matmul(w, u, transpose_b=True))),
        ),
        "gradient xᵀ u": (None, product(lambda x, w, u: tf.matmul(x, u, transpose_a=True))),
        "column norms of v, forward": (
            norms(lambda v: tf.norm(v, axis=0)),
            norms(lambda v: tf.sqrt(tf.matmul(ones, tf.square(v)))),
        ),
        "linear layer": (step(keras.layers.Dense(UNITS)), step(WeightNormDense(UNITS))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    pin()
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    sides = {(name, side): work for name, pair in parts().items() for side, work in enumerate(pair) if work}
    times = {key: [] for key in sides}
    for turn in range(arguments.rounds + 1):
        for key, work in sides.items():
            work()  # the caches are its own
            began = time.process_time()
            for _ in range(TURN):
                work()
            if turn:
                times[key].append((time.process_time() - began) / TURN * 1000)
    print(f"{'part, CPU ms':28}{'Keras':>8}{'here':>8}")
    for name in dict.fromkeys(name for name, _ in sides):
        shown = [f"{statistics.median(times[name, s]):.1f}" if (name, s) in times else "" for s in range(2)]
        print(f"{name:28}{shown[0]:>8}{shown[1]:>8}")


if __name__ == "__main__":
    main()
