"""Training throughput of the families in float32 and in mixed_bfloat16, in turns.

    python benchmarks/precision.py [--models mlp:one-cycle tabm:full …] [--turns 5]

Each trains the network of a preset by the product's own training on the same random rows of 876 features and 206
targets, with the preset's batch size, in turns of one epoch (see turns.py).
"""

from __future__ import annotations

import argparse
import sys

from turns import Contestant, compare, pin, random_rows, train_in_turns

FEATURES, TARGETS = 876, 206
STEPS = {
    "mlp:one-cycle": 10,
    "mlp:small": 200,
    "resnet:first-place": 20,
    "resnet:small": 100,
    "cnn1d:second-place": 3,
    "cnn1d:small": 10,
    "tabm:full": 3,
    "tabm:small": 10,
    "tabnet:winners": 20,
    "tabnet:small": 50,
    "gru:large": 3,
    "gru:small": 10,
    "lstm:large": 3,
    "lstm:small": 10,
}
"""In a turn: about a second of the slower side."""
MOST_EPOCHS = 10_000
"""Of the schedule; the parent ends both long before."""


def hyperparameters(model):
    from moa_tf.config import override
    from moa_tf.models.base import get_family

    name, preset = model.split(":")
    family = get_family(name)
    settings = [f"epochs={MOST_EPOCHS}", "steps=0", "early_stopping=0", "schedule=one-cycle"]
    return family, override(family.presets[preset], settings)


def train(model, precision):
    family, chosen = hyperparameters(model)
    features, targets = random_rows(chosen.recipe.batch_size * STEPS[model], FEATURES, TARGETS)
    tables = {"features": features}
    if family.name == "resnet":  # its second head reads some of them again
        tables["selected"] = features[:, :450].copy()
    train_in_turns(family, chosen, tables, targets, precision)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    pin()
    if arguments.worker:
        train(arguments.models[0], arguments.worker)
        return
    for model in arguments.models:
        half, full = (
            Contestant(sys.executable, __file__, "--models", model, "--worker", precision)
            for precision in ("mixed_bfloat16", "float32")
        )
        samples = hyperparameters(model)[1].recipe.batch_size * STEPS[model]
        compare(model, half, full, "float32", arguments.turns, samples, ours_name="mixed_bfloat16")


if __name__ == "__main__":
    main()
