"""Quality at full size on a GPU, by Keras's JAX backend, where TensorFlow need not be.

    python benchmarks/gpu.py pack DIR packed.npz [--fold 4]           where moa-tf is installed
    KERAS_BACKEND=jax python benchmarks/gpu.py quality packed.npz [--families mlp tabm …] [--set epochs=10]
        [--precision mixed_bfloat16]

`quality` trains each family's preset for large tables on one fold's training rows, and judges the last
epoch on its treated held-out rows, as `moa-tf train --only-fold K` does; the order of rows and the initial weights are
other ones.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

FAMILIES = ("mlp", "tabm", "resnet", "cnn1d", "gru", "lstm")
SCALE = 1e4
"""The competition's features have four decimals."""


def pack(directory, path, fold):
    from moa_tf.data.read import read_dataset
    from moa_tf.training.cross_validation import Validation, make_folds

    dataset = read_dataset(directory)
    signatures, rows = dataset.signatures, make_folds(dataset, Validation(), False)[fold]
    values = {
        name: np.round(getattr(signatures, name) * SCALE).astype(np.int32) for name in ("genes", "cells")
    }
    np.savez_compressed(
        path,
        **values,
        **{name: getattr(signatures, name) for name in ("cp_type", "cp_time", "cp_dose")},
        targets=np.packbits(dataset.targets.astype(bool), axis=1),
        shape=dataset.targets.shape,
        train=rows.train,
        judged=rows.judged,
        prior=rows.prior,
    )


def load(path):
    from moa_tf.data.schema import Signatures, SignatureSpec

    with np.load(path) as file:
        data = dict(file)
    genes, cells = ((data[name] / SCALE).astype(np.float32) for name in ("genes", "cells"))
    names = [
        tuple(f"{kind}-{i}" for i in range(values.shape[1])) for kind, values in (("g", genes), ("c", cells))
    ]
    ids = np.arange(len(genes)).astype(str).astype(object)
    treatment = {name: data[name] for name in ("cp_type", "cp_time", "cp_dose")}
    signatures = Signatures(SignatureSpec(*names), ids, genes, cells, **treatment)
    targets = np.unpackbits(data["targets"], axis=1)[:, : data["shape"][1]].astype(np.float32)
    return signatures, targets, data["train"], data["judged"], data["prior"]


def batches(features, targets, rows, size, seed):
    import keras

    class Batches(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.rng = np.random.default_rng(seed)
            self.on_epoch_end()

        def on_epoch_end(self):
            self.order = self.rng.permutation(rows)

        def __len__(self):
            return len(rows) // size

        def __getitem__(self, number):
            some = self.order[number * size : (number + 1) * size]
            return {name: values[some] for name, values in features.items()}, targets[some]

    return Batches()


def predict(model, inputs, size):
    """In blocks of `size` rows, as Keras's own `predict` asks for TensorFlow on every backend."""
    import keras

    rows = len(next(iter(inputs.values())))
    # The last block starts over from the first row: one of another size would be compiled anew.
    blocks = [np.arange(start, start + size) % rows for start in range(0, rows, size)]
    parts = [
        model.predict_on_batch({name: values[some] for name, values in inputs.items()}) for some in blocks
    ]
    return keras.tree.map_structure(lambda *each: np.concatenate(each)[:rows], *parts)


def quality(path, families, settings, precision):
    import keras

    from moa_tf.config import override
    from moa_tf.evaluation.metrics import mean_log_loss, rank_metrics
    from moa_tf.models.base import get_family
    from moa_tf.training.losses import SmoothedBinaryCrossentropy, log_positive_weights
    from moa_tf.training.optimizers import make_learning_rate, make_optimizer

    signatures, targets, train, judged, prior = load(path)
    means = np.broadcast_to(prior, targets[judged].shape)
    print(f"column means {mean_log_loss(targets[judged], means):.5f}", flush=True)
    for name in families:
        began = time.perf_counter()
        family = get_family(name)
        preset = family.choose_preset(len(signatures))
        hyperparameters = override(family.presets[preset], settings)
        architecture, recipe = hyperparameters.architecture, hyperparameters.recipe
        preprocessing = family.fit_preprocessing(signatures.take(train), architecture, 0)
        inputs = {key: value for key, value in signatures.inputs().items() if key in preprocessing.input}
        features = predict(preprocessing, inputs, 2048)
        keras.config.set_dtype_policy(precision)
        network = family.build(preprocessing, architecture, prior, 0)
        keras.config.set_dtype_policy("float32")
        model = keras.Model(network.input, family.training_output(network))
        steps = len(train) // recipe.batch_size
        weights = log_positive_weights(targets[train].sum(0)) if recipe.positive_weights == "log" else None
        model.compile(
            make_optimizer(recipe, make_learning_rate(recipe, steps * recipe.epochs)),
            SmoothedBinaryCrossentropy(recipe.label_smoothing, weights),
        )
        prepared = time.perf_counter() - began
        data = batches(features, targets, train, recipe.batch_size, 1)
        history = model.fit(data, epochs=recipe.epochs, verbose=2, callbacks=family.callbacks(architecture))
        trained = time.perf_counter() - began - prepared
        network = family.finish(network, architecture)
        held_out = {key: value[judged] for key, value in features.items()}
        logits = predict(network, held_out, recipe.batch_size)
        predicted = 1 / (1 + np.exp(-logits.astype(np.float64)))
        loss = mean_log_loss(targets[judged], predicted)
        auroc, average = rank_metrics(targets[judged], predicted)
        print(
            f"{' '.join([name, preset, precision, *settings])}, {recipe.epochs} epochs: log loss {loss:.5f}, "
            f"AUROC {np.nanmean(auroc):.4f}, average precision {np.nanmean(average):.4f}; training loss "
            f"{history.history['loss'][-1]:.5f}; {prepared:.0f} s to prepare, {trained:.0f} s to train "
            f"({steps * recipe.batch_size * recipe.epochs / trained:,.0f} samples/s), "
            f"{network.count_params():,} parameters",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("directory", type=Path)
    packing.add_argument("path", type=Path)
    packing.add_argument("--fold", type=int, default=4)
    judging = commands.add_parser("quality")
    judging.add_argument("path", type=Path)
    judging.add_argument("--families", nargs="+", default=list(FAMILIES))
    judging.add_argument("--precision", default="float32", help="Keras dtype policy of the networks")
    judging.add_argument("--set", action="append", default=[], help="key=value of the family's config")
    arguments = parser.parse_args()
    if arguments.command == "pack":
        pack(arguments.directory, arguments.path, arguments.fold)
    else:
        quality(arguments.path, arguments.families, arguments.set, arguments.precision)


if __name__ == "__main__":
    main()
