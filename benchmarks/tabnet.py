"""TabNet against pytorch-tabnet 4.1: speed in turns, quality on one drug-held-out fold, memory of explain.

Both have n_d = n_a = 32, 1 step, entmax, BCE, Adam 2e-2 with coupled weight decay 1e-5, gradients clipped to norm 1,
batch 1,024. In mixed_bfloat16 the peer's network is under autocast. Both train as their users train them: moa-tf
through its training loop's `fit`, pytorch-tabnet through its data loader and `_train_epoch`.

    python benchmarks/tabnet.py speed [--turns 7] [--virtual-batch-sizes 128 32] [--precision mixed_bfloat16]
        [--set jit_compile=false] [--python-torch PYTHON]
    python benchmarks/tabnet.py quality DATA [--fold 0] [--epochs 60] [--seeds 3]
    python benchmarks/tabnet.py memory [--rows 100000]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from turns import THREADS, Contestant, compare, pin, random_rows, take_turns, train_in_turns

FEATURES, TARGETS, BATCH, STEPS = 876, 206, 1024, 20
SMOOTHING = 0.001


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


def make_ours(virtual_batch_size):
    import keras

    from moa_tf.models.base import output_bias
    from moa_tf.models.tabnet import PRESETS, TabNet
    from moa_tf.training.losses import SmoothedBinaryCrossentropy
    from moa_tf.training.optimizers import make_optimizer

    recipe = PRESETS["winners"].recipe
    bias = output_bias(np.full(TARGETS, 0.004))
    network = TabNet(FEATURES, TARGETS, virtual_batch_size=virtual_batch_size, output_bias=bias, seed=0)
    model = keras.Model(network.input, network.output)
    model.compile(make_optimizer(recipe, 2e-2), SmoothedBinaryCrossentropy(SMOOTHING), jit_compile=False)
    return network, model


def train_ours(arguments):
    """One epoch a turn of the product's own training."""
    from moa_tf.config import override
    from moa_tf.models.tabnet import FAMILY, PRESETS

    x, y = random_rows(STEPS * BATCH, FEATURES, TARGETS)
    settings = ["epochs=100000", f"virtual_batch_size={arguments.virtual_batch_size}"]
    hyperparameters = override(PRESETS["winners"], [*settings, *arguments.set])
    train_in_turns(FAMILY, hyperparameters, {"features": x}, y, arguments.precision)


def train_peer(arguments):
    """One epoch a turn of the peer's own training."""
    x, y = random_rows(STEPS * BATCH, FEATURES, TARGETS)
    import torch

    peer, settings = make_peer(arguments.virtual_batch_size, epochs=1)
    peer.fit(x, y, **settings)
    loader, _ = peer._construct_loaders(x, y, [])
    began = take_turns()
    with torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "mixed_bfloat16"):
        while True:
            peer._train_epoch(loader)
            began = take_turns(time.perf_counter() - began)


def infer_ours(arguments):
    from moa_tf.training.inference import Inference

    network, _ = make_ours(arguments.virtual_batch_size)
    inference = Inference(network)
    infer(lambda x: inference({"features": x}, BATCH))


def infer_peer(arguments):
    peer, settings = make_peer(arguments.virtual_batch_size, epochs=1)
    peer.fit(*random_rows(BATCH, FEATURES, TARGETS), **settings)
    infer(peer.predict)


def infer(predict):
    x, _ = random_rows(STEPS * BATCH, FEATURES, TARGETS)
    predict(x[:BATCH])
    began = take_turns()
    while True:
        predict(x)
        began = take_turns(time.perf_counter() - began)


CONTESTANTS = {"training": (train_ours, train_peer), "inference": (infer_ours, infer_peer)}


def speed(arguments):
    pythons = sys.executable, arguments.python_torch
    for work, sides in CONTESTANTS.items():
        if work not in arguments.works:
            continue
        for size in arguments.virtual_batch_sizes:
            command = ["--virtual-batch-size", size, "--precision", arguments.precision]
            command += [part for option in arguments.set for part in ("--set", option)]
            ours, theirs = (
                Contestant(python, __file__, "contestant", side.__name__, *command)
                for python, side in zip(pythons, sides, strict=True)
            )
            label = f"{work}, virtual batch {size}"
            compare(label, ours, theirs, "pytorch-tabnet", arguments.turns, STEPS * BATCH)


def contestant(arguments):
    {side.__name__: side for sides in CONTESTANTS.values() for side in sides}[arguments.name](arguments)


def quality(arguments):
    from held_out import HeldOutFold

    settings = [f"epochs={arguments.epochs}", f"virtual_batch_size={arguments.virtual_batch_size}"]
    fold = HeldOutFold(
        arguments.data,
        "tabnet",
        "winners",
        [*settings, *arguments.set],
        arguments.fold,
        arguments.fold_seed,
    )

    def train_theirs(seed):
        peer, settings = make_peer(arguments.virtual_batch_size, arguments.epochs, seed=seed)
        (x, y), (train, test) = (fold.x, fold.targets), (fold.rows.train, fold.rows.judged)
        score = [log_loss_metric()]
        peer.fit(x[train], y[train], eval_set=[(x[test], y[test])], eval_metric=score, **settings)
        logits = peer.predict(x[test]).astype(np.float64)
        return fold.log_loss(1 / (1 + np.exp(-logits))), len(peer.history["loss"])

    sides = {"moa-tf": fold.train, "pytorch-tabnet": train_theirs}
    means = {}
    for side in arguments.only or sides:
        losses = []
        for seed in range(arguments.seeds):
            start = time.perf_counter()
            loss, epochs = sides[side](seed)
            losses.append(loss)
            seconds = time.perf_counter() - start
            print(f"{side:14} seed {seed}: {loss:.5f}   {seconds:.0f} s, {epochs} epochs", flush=True)
        means[side] = np.mean(losses)
        print(f"{side:14} mean of {arguments.seeds}: {means[side]:.5f}", flush=True)
    if len(means) == 2:
        print(f"ratio          {means['moa-tf'] / means['pytorch-tabnet']:.4f}")


def log_loss_metric():
    from pytorch_tabnet.metrics import Metric

    from moa_tf.evaluation.metrics import mean_log_loss

    class LogLoss(Metric):
        """The competition's metric, for early stopping."""

        def __init__(self):
            self._name, self._maximize = "log_loss", False

        def __call__(self, y_true, y_score):
            return mean_log_loss(y_true, 1 / (1 + np.exp(-np.asarray(y_score, np.float64))))

    return LogLoss


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
        peer.fit(*random_rows(BATCH, FEATURES, TARGETS), **settings)
        x = random_rows(arguments.rows, FEATURES, TARGETS)[0]
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
    from moa_tf.models.tabnet import build_explainer

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
    one.add_argument("--turns", type=int, default=7)
    one.add_argument("--virtual-batch-sizes", type=int, nargs="+", default=[128, 32])
    one.add_argument("--works", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    one.add_argument("--python-torch", default=sys.executable, help="an interpreter that has pytorch-tabnet")
    one.set_defaults(run=speed)
    five = commands.add_parser("contestant")
    five.add_argument("name")
    five.set_defaults(run=contestant)
    for command in (one, five):
        command.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default="float32")
    two = commands.add_parser("quality")
    two.add_argument("data")
    two.add_argument("--fold", type=int, default=0)
    two.add_argument("--fold-seed", type=int, default=0)
    two.add_argument("--epochs", type=int, default=60)
    two.add_argument("--seeds", type=int, default=3, help="networks of each side")
    two.add_argument("--only", action="append", choices=("moa-tf", "pytorch-tabnet"))
    two.set_defaults(run=quality)
    for command in (one, two, five):
        command.add_argument("--set", action="append", default=[], help="key=value of the project's config")
    for command in (two, five):
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
    pin()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
