"""TabM training throughput: this project's `train_network` against PyTorch with the authors' package `tabm`.

    python benchmarks/tabm.py [--presets full small] [--precision mixed_bfloat16] [--threads 2] [--turns 9]
        [--python-torch PYTHON]

Both train the network of a preset (`full`: 876-512-512-512-206, `small`: 876-256-256-206; 32 members, ReLU, dropout)
with AdamW, one cycle and clipped gradients on the same random rows from memory, in turns of one epoch (see turns.py).
In mixed_bfloat16 PyTorch has autocast.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from turns import THREADS, Contestant, compare, pin, random_rows, train_in_turns, train_torch_in_turns

FEATURES, TARGETS, STEPS, BATCH, MEMBERS = 876, 206, 8, 256, 32
SIZES = {"full": ((512, 512, 512), 0.1), "small": ((256, 256), 0.3)}
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 3e-4
EPOCHS = 10_000
"""Of the schedule; the parent ends both long before."""


def train_project(preset, threads, precision, options):
    import moa_tf.models.tabm as tabm
    from moa_tf.config import override

    features, targets = random_rows(BATCH * STEPS, FEATURES, TARGETS)
    hidden, dropout = SIZES[preset]
    same = [
        f"epochs={EPOCHS}",
        "steps=0",
        "early_stopping=0",
        f"batch_size={BATCH}",
        f"hidden={','.join(map(str, hidden))}",
        f"dropout={dropout}",
        f"k={MEMBERS}",
        "optimizer=adamw",
        "schedule=one-cycle",
        "clip_norm=1",
        "label_smoothing=0",
        f"learning_rate={LEARNING_RATE}",
        f"weight_decay={WEIGHT_DECAY}",
    ]
    hyperparameters = override(tabm.PRESETS[preset], [*same, *options])
    train_in_turns(tabm.FAMILY, hyperparameters, {"features": features}, targets, precision, threads)


def train_torch(preset, threads, precision, options):
    import torch
    from torch import nn

    sys.path.remove(str(Path(__file__).parent))  # Where this file has the package's name.
    from tabm import TabM

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    hidden, dropout = SIZES[preset]
    network = TabM.make(
        n_num_features=FEATURES,
        d_out=TARGETS,
        n_blocks=len(hidden),
        d_block=hidden[0],
        dropout=dropout,
        k=MEMBERS,
    )
    bce = nn.BCEWithLogitsLoss()
    train_torch_in_turns(
        network,
        lambda logits, labels: bce(logits, labels[:, None].expand_as(logits)),
        random_rows(BATCH * STEPS, FEATURES, TARGETS),
        BATCH,
        precision,
        EPOCHS,
        clip_norm=1.0,
        lr=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
    )


WORKERS = {"project": train_project, "torch": train_torch}


def compare_at(preset, arguments):
    same = ["--presets", preset, "--precision", arguments.precision, "--threads", arguments.threads]
    options = [part for option in arguments.set for part in ("--set", option)]
    project = Contestant(
        sys.executable, __file__, "--worker", "project", *same, *options, threads=arguments.threads
    )
    torch = Contestant(
        arguments.python_torch, __file__, "--worker", "torch", *same, threads=arguments.threads
    )
    compare(f"{preset}, {arguments.precision}", project, torch, "PyTorch", arguments.turns, BATCH * STEPS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=THREADS, help="and cores to pin to")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument(
        "--python-torch", default=sys.executable, help="an interpreter that has PyTorch and tabm"
    )
    parser.add_argument("--set", action="append", default=[], help="key=value of the project's config")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    pin(arguments.threads)
    if arguments.worker:
        preset, precision = arguments.presets[0], arguments.precision
        WORKERS[arguments.worker](preset, arguments.threads, precision, arguments.set)
        return
    for preset in arguments.presets:
        compare_at(preset, arguments)


if __name__ == "__main__":
    main()
