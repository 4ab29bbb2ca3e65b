"""TabNet against pytorch-tabnet 4.1: speed in turns, quality on one drug-held-out fold, memory of explain.

Both have n_d = n_a = 32, 1 step, entmax, BCE, Adam 2e-2 with coupled weight decay 1e-5, gradients clipped to norm 1,
batch 1,024. Both train as their users train them: moa-tf through its training loop's `fit`, pytorch-tabnet through
its data loader and `_train_epoch`.

    python benchmarks/tabnet.py speed [--rounds 7] [--virtual-batch-size 128]
    python benchmarks/tabnet.py quality DATA [--fold 0] [--epochs 60]
    python benchmarks/tabnet.py memory [--rows 100000]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

FEATURES, TARGETS, BATCH = 876, 206, 1024
SMOOTHING = 0.001
THREADS = 2


def make_peer(virtual_batch_size=128, epochs=60, patience=30, seed=0):
    import torch
    from pytorch_tabnet.tab_model import TabNetRegressor

    class Plain(TabNetRegressor):
        """Keeps the labels' shape; scores are logits."""

        def compute_loss(self, y_pred, y_true):
            smoothed = y_true * (1 - SMOOTHING) + SMOOTHING / 2
            return torch.nn.functional.binary_cross_entropy_with_logits(y_pred, smoothed)

    class Plateau(torch.optim.lr_scheduler.ReduceLROnPlateau):
        """pytorch-tabnet passes the metric to schedulers with this name, which newer torch has renamed."""

        def is_better(self, *arguments):
            return self._is_better(*arguments)

    torch.set_num_threads(THREADS)
    model = Plain(
        n_d=32, n_a=32, n_steps=1, gamma=1.3, lambda_sparse=0, mask_type="entmax", seed=seed, verbose=0,
        optimizer_fn=torch.optim.Adam, optimizer_params={"lr": 2e-2, "weight_decay": 1e-5},
        scheduler_fn=Plateau,
        scheduler_params={"mode": "min", "factor": 0.9, "patience": 5}, device_name="cpu",
    )  # fmt: skip
    settings = {"max_epochs": epochs, "patience": patience, "batch_size": BATCH, "num_workers": 0}
    return model, settings | {"virtual_batch_size": virtual_batch_size, "drop_last": True}


def random_data(rows):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, FEATURES)).astype("float32")
    return x, (generator.random((rows, TARGETS)) < 0.004).astype("float32")


def make_ours(virtual_batch_size):
    import keras

    from moa_tf.models.base import output_bias
    from moa_tf.models.tabnet import TabNetConfig
    from moa_tf.models.tabnet_network import TabNet
    from moa_tf.training.losses import SmoothedBinaryCrossentropy
    from moa_tf.training.optimizers import make_optimizer

    config = TabNetConfig()
    bias = output_bias(np.full(TARGETS, 0.004))
    network = TabNet(FEATURES, TARGETS, virtual_batch_size=virtual_batch_size, output_bias=bias, seed=0)
    model = keras.Model(network.input, network.output)
    model.compile(make_optimizer(config, 2e-2), SmoothedBinaryCrossentropy(SMOOTHING), jit_compile=False)
    return network, model


def speed(arguments):
    from moa_tf.data.input import Inference, training_batches

    steps = 12
    x, y = random_data(steps * BATCH)
    network, model = make_ours(arguments.virtual_batch_size)
    inference = Inference(network)
    peer, settings = make_peer(arguments.virtual_batch_size, epochs=1)
    peer.fit(x, y, **settings)
    loader, _ = peer._construct_loaders(x, y, [])
    batches = training_batches({"features": x}, y, np.arange(len(x)), BATCH, range(1), 0)

    def one_epoch():
        model.fit(batches, verbose=0, shuffle=False)

    def run_peer():
        peer._train_epoch(loader)

    work = {
        "training": (one_epoch, run_peer),
        "inference": (lambda: inference({"features": x}, BATCH), lambda: peer.predict(x)),
    }
    for name, pair in work.items():
        times = ([], [])
        for _ in range(arguments.rounds + 1):
            for seconds, run in zip(times, pair, strict=True):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
        ours, theirs = (len(x) / statistics.median(seconds[1:]) for seconds in times)
        best = min(times[1][1:]) / min(times[0][1:])
        print(
            f"{name:10} virtual batch {arguments.virtual_batch_size:4}: moa-tf {ours:8,.0f} samples/s, "
            f"pytorch-tabnet {theirs:8,.0f}, ratio of medians {ours / theirs:.2f}, of the fastest {best:.2f}",
            flush=True,
        )


def quality(arguments):
    from moa_tf.data.folds import assign_folds
    from moa_tf.data.input import Inference
    from moa_tf.data.read import read_dataset
    from moa_tf.evaluation.metrics import mean_log_loss
    from moa_tf.models.base import get_family, override
    from moa_tf.training.fold import FoldData, probabilities, train_network
    from moa_tf.training.strategy import Placement

    dataset = read_dataset(arguments.data)
    folds = assign_folds(dataset.targets, dataset.drug_id, "drug", 5, arguments.seed)
    treated = ~dataset.signatures.control
    train = np.flatnonzero((folds != arguments.fold) & treated)
    test = np.flatnonzero((folds == arguments.fold) & treated)
    family = get_family("tabnet")
    settings = [f"epochs={arguments.epochs}", f"virtual_batch_size={arguments.virtual_batch_size}"]
    config = override(family.presets["winners"], [*settings, *arguments.set])
    preprocessing = family.fit_preprocessing(dataset.signatures.take(train), config, 0)
    features = Inference(preprocessing)(dataset.signatures.inputs())
    y = dataset.targets
    prior = np.broadcast_to(y[train].mean(axis=0), (len(test), y.shape[1]))
    print(
        f"fold {arguments.fold} of 5, drugs held out, {len(test)} treated rows; simulated: {dataset.simulated}"
    )
    print(f"column means   {mean_log_loss(y[test], prior):.5f}", flush=True)
    start = time.perf_counter()
    data = FoldData(preprocessing, features, y, train, test)
    network, history = train_network(family, data, config, 1, Placement("none", None))
    held_out = {name: values[test] for name, values in features.items()}
    ours = mean_log_loss(y[test], probabilities(Inference(network), held_out))
    seconds, epochs = time.perf_counter() - start, len(history["epochs"])
    print(f"moa-tf         {ours:.5f}   {seconds:.0f} s, {epochs} epochs", flush=True)
    if arguments.ours_only:
        return
    from pytorch_tabnet.metrics import Metric

    class LogLoss(Metric):
        """The competition's metric, for early stopping."""

        def __init__(self):
            self._name, self._maximize = "log_loss", False

        def __call__(self, y_true, y_score):
            return mean_log_loss(y_true, 1 / (1 + np.exp(-np.asarray(y_score, np.float64))))

    peer, settings = make_peer(arguments.virtual_batch_size, arguments.epochs)
    x = features["features"]
    start = time.perf_counter()
    peer.fit(x[train], y[train], eval_set=[(x[test], y[test])], eval_metric=[LogLoss], **settings)
    logits = peer.predict(x[test]).astype(np.float64)
    theirs = mean_log_loss(y[test], 1 / (1 + np.exp(-logits)))
    epochs = len(peer.history["loss"])
    print(f"pytorch-tabnet {theirs:.5f}   {time.perf_counter() - start:.0f} s, {epochs} epochs")
    print(f"ratio          {ours / theirs:.4f}")


def memory(arguments):
    for name in ("moa-tf", "pytorch-tabnet"):
        for rows in (BATCH, arguments.rows):
            command = [sys.executable, __file__, "explain", name, "--rows", str(rows)]
            print(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True
            )


def explain(arguments):
    """One side, in a process of its own. Rows come in pieces where the side can take them so."""
    if arguments.name == "moa-tf":
        grown = explain_ours(arguments.rows)
    else:
        peer, settings = make_peer(epochs=1)
        peer.fit(*random_data(BATCH), **settings)
        x = random_data(arguments.rows)[0]
        before = peak()
        peer.explain(x)
        grown = peak() - before
    print(
        f"explain {arguments.rows:7,} rows, {arguments.name:14}: peak {peak():6,.0f} MB, "
        f"of it by explaining {grown:6,.0f} MB"
    )


def explain_ours(rows):
    import tensorflow as tf

    from moa_tf.data.schema import Signatures, SignatureSpec
    from moa_tf.explanation.importance import explain_table
    from moa_tf.models.tabnet_network import build_explainer

    network, _ = make_ours(128)
    model = build_explainer(network)
    function = tf.function(lambda x: model({"features": x}, training=False), reduce_retracing=True)
    genes = tuple(f"g-{i}" for i in range(FEATURES))
    spec = SignatureSpec(genes, (), ())

    def pieces():
        for start in range(0, rows, BATCH):
            x = np.random.default_rng(start).normal(size=(min(BATCH, rows - start), FEATURES))
            ids = np.array([f"id_{start + i}" for i in range(len(x))], object)
            yield Signatures(spec, ids, x.astype("float32"))

    def run(part):
        outputs = function(tf.constant(part.genes))
        return outputs["importance"].numpy(), tf.sigmoid(outputs["logits"]).numpy()

    before = peak()
    with tempfile.TemporaryDirectory() as directory:
        targets = [f"t{i}" for i in range(TARGETS)]
        explain_table(run, pieces(), genes, targets, Path(directory) / "out.parquet")
    return peak() - before


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("speed")
    one.add_argument("--rounds", type=int, default=7)
    one.set_defaults(run=speed)
    two = commands.add_parser("quality")
    two.add_argument("data")
    two.add_argument("--fold", type=int, default=0)
    two.add_argument("--seed", type=int, default=0)
    two.add_argument("--epochs", type=int, default=60)
    two.add_argument("--set", action="append", default=[])
    two.add_argument("--ours-only", action="store_true")
    two.set_defaults(run=quality)
    for command in (one, two):
        command.add_argument("--virtual-batch-size", type=int, default=128)
    three = commands.add_parser("memory")
    three.set_defaults(run=memory)
    four = commands.add_parser("explain")
    four.add_argument("name", choices=("moa-tf", "pytorch-tabnet"))
    four.set_defaults(run=explain)
    for command in (three, four):
        command.add_argument("--rows", type=int, default=100_000)
    warnings.filterwarnings("ignore")  # the peer announces its defaults
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
