"""MLP training throughput: this project's `train_network` against PyTorch with fused AdamW.

    python benchmarks/mlp.py [--batch-size 256 1024] [--precision float32 mixed_bfloat16] [--threads 2] [--turns 9]
        [--python-torch PYTHON]

Both train the network of the preset `one-cycle` (876-2048-2048-2048-206: batch normalisation, the first without γ
and β, dropout, weight-normalised linear layer, leaky ReLU; smoothed binary cross-entropy) with AdamW and one cycle
on the same random rows from memory, in turns of one epoch (see turns.py). In mixed_bfloat16 PyTorch has autocast.
"""

from __future__ import annotations

import argparse
import sys

from turns import THREADS, Contestant, compare, pin, random_rows, train_in_turns, train_torch_in_turns

FEATURES, TARGETS, STEPS = 876, 206, 20
DROPOUT = (0.15, 0.3, 0.25, 0.25)
LEARNING_RATE, WEIGHT_DECAY = 5e-3, 1e-5
EPOCHS = 10_000
"""Of the schedule; the parent ends both long before."""


def train_project(batch_size, threads, precision, options):
    import moa_tf.models.mlp as mlp
    from moa_tf.config import override

    features, targets = random_rows(batch_size * STEPS, FEATURES, TARGETS)
    same = [
        f"epochs={EPOCHS}",
        f"batch_size={batch_size}",
        f"dropout={','.join(map(str, DROPOUT[:-1]))}",
        f"output_dropout={DROPOUT[-1]}",
        "optimizer=adamw",
        f"learning_rate={LEARNING_RATE}",
        f"weight_decay={WEIGHT_DECAY}",
    ]
    hyperparameters = override(mlp.PRESETS["one-cycle"], [*same, *options])
    train_in_turns(mlp.FAMILY, hyperparameters, {"features": features}, targets, precision, threads)


def train_torch(batch_size, threads, precision, options):
    import torch
    from torch import nn
    from torch.nn.utils.parametrizations import weight_norm

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layers, inputs = [], FEATURES
    for units, rate in zip((2048, 2048, 2048, TARGETS), DROPOUT, strict=True):
        linear = weight_norm(nn.Linear(inputs, units), dim=0)
        norm = nn.BatchNorm1d(inputs, affine=bool(layers))
        layers += [norm, nn.Dropout(rate), linear, nn.LeakyReLU()]
        inputs = units
    network = nn.Sequential(*layers[:-1])
    bce = nn.BCEWithLogitsLoss()
    train_torch_in_turns(
        network,
        lambda logits, labels: bce(logits, labels * 0.999 + 0.0005),
        random_rows(batch_size * STEPS, FEATURES, TARGETS),
        batch_size,
        precision,
        EPOCHS,
        lr=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
    )


WORKERS = {"project": train_project, "torch": train_torch}


def compare_at(batch_size, precision, arguments):
    same = ["--batch-size", batch_size, "--precision", precision, "--threads", arguments.threads]
    options = [part for option in arguments.set for part in ("--set", option)]
    project = Contestant(
        sys.executable, __file__, "--worker", "project", *same, *options, threads=arguments.threads
    )
    torch = Contestant(
        arguments.python_torch, __file__, "--worker", "torch", *same, threads=arguments.threads
    )
    compare(
        f"{precision}, batch {batch_size:5d}", project, torch, "PyTorch", arguments.turns, batch_size * STEPS
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[256, 1024])
    parser.add_argument(
        "--precision", choices=("float32", "mixed_bfloat16"), nargs="+", default=["float32", "mixed_bfloat16"]
    )
    parser.add_argument("--threads", type=int, default=THREADS, help="and cores to pin to")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--python-torch", default=sys.executable, help="an interpreter that has PyTorch")
    parser.add_argument("--set", action="append", default=[], help="key=value of the project's config")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    pin(arguments.threads)
    if arguments.worker:
        first = (arguments.batch_size[0], arguments.threads, arguments.precision[0])
        WORKERS[arguments.worker](*first, arguments.set)
        return
    for precision in arguments.precision:
        for batch_size in arguments.batch_size:
            compare_at(batch_size, precision, arguments)


if __name__ == "__main__":
    main()
