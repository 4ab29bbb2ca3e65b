"""`moa-tf tune`: search for a model's hyperparameters."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import click

from moa_tf.api import tune as api
from moa_tf.cli.options import LocalPath, backend_option, json_option, validation_options
from moa_tf.cli.output import fixed, print_lines, print_table, write_json
from moa_tf.models.base import DEFAULT, FAMILIES

SHOWN = 5
"""Trials in the table."""


@click.command()
@click.argument("data", type=LocalPath())
@click.option("--model", type=click.Choice(list(FAMILIES)), default=DEFAULT, show_default=True)
@click.option(
    "--trials",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="How many in all, the preset itself among them.",
)
@click.option("--out", type=LocalPath(), required=True, help="Directory of the search.")
@click.option(
    "--inner-folds",
    type=click.IntRange(2),
    default=3,
    show_default=True,
    help="The training rows are split into so many, each judged in turn.",
)
@click.option("--preset", help="Where the search starts. [default: by the size of the table]")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="For all trials; repeatable.")
@backend_option
@validation_options
@json_option
def tune(
    data: Path,
    model: str,
    trials: int,
    out: Path,
    inner_folds: int,
    preset: str | None,
    assignments: tuple[str, ...],
    backend: str,
    strategy: str,
    logical_devices: int | None,
    split: str,
    folds: int,
    seeds: int,
    only_fold: int | None,
    missing: bool,
    precision: str,
    seed: int,
    json_file: Path | None,
) -> None:
    """Search for a model's hyperparameters, and print the best as options of `train`.

    Trials are judged on inner folds of the training rows of one fold (--only-fold, by default 0). What that fold holds
    out is never looked at: `train --only-fold` with the settings that were found says what they are worth. Called
    again, after a kill or with more --trials, the search goes on. Needs moa-tf[tune].

    \b
    Examples
      moa-tf tune lish-moa --model tabm --trials 50 --out searches/tabm
      moa-tf tune nci60 --missing median --model mlp --set epochs=20 --out searches/mlp
    """
    started = time.monotonic()
    from moa_tf.cli.progress import LiveReporter

    fold = only_fold or 0
    with LiveReporter() as reporter:
        tuned = api.tune(
            data,
            out=out,
            model=model,
            trials=trials,
            inner_folds=inner_folds,
            preset=preset,
            settings=assignments,
            backend=backend,
            strategy=strategy,
            logical_devices=logical_devices,
            split=split,
            folds=folds,
            seeds=seeds,
            only_fold=fold,
            missing="median" if missing else "refuse",
            precision=precision,
            seed=seed,
            callbacks=[reporter],
        )
    ranked = sorted(range(len(tuned.trials)), key=lambda number: tuned.trials[number].log_loss)
    rows = [
        [number, fixed(trial.log_loss, 5), _options(trial.settings) or f"preset {tuned.preset}"]
        for number, trial in ((number, tuned.trials[number]) for number in ranked[:SHOWN])
    ]
    title = f"The best of {len(tuned.trials)} trials" + ", simulated data" * tuned.simulated
    print_table(title, ["trial", "log loss of inner folds", "settings"], rows)
    best = tuned.settings
    given = [part for assignment in assignments for part in ("--set", assignment)]
    print_lines(
        f"preset       log loss {tuned.trials[0].log_loss:.5f}",
        f"best         {_options(best) or 'the preset itself'}",
        f"time         {time.monotonic() - started:.0f} s",
    )
    command = ["moa-tf", "train", "--data", str(data), "--model", model, "--preset", tuned.preset, *given]
    command += ["--missing", "median"] * missing
    # What else was asked for decides which drugs the fold holds out, or how it is trained.
    asked = (
        ("--backend", backend, "tensorflow"),
        ("--strategy", strategy, "none"),
        ("--split", split, "drug"),
        ("--folds", folds, 5),
        ("--seeds", seeds, 1),
        ("--precision", precision, "float32"),
        ("--seed", seed, 0),
    )
    command += [text for option, value, usual in asked if value != usual for text in (option, str(value))]
    print_lines(
        f"\nNext: {shlex.join([*command, '--only-fold', str(fold)])} {_options(best)}".rstrip(),
    )
    if json_file is not None:
        figures = {
            "model": model,
            "preset": tuned.preset,
            "best": {"log_loss": tuned.best.log_loss, "settings": best},
            "trials": [{"log_loss": trial.log_loss, "settings": trial.settings} for trial in tuned.trials],
            "out": out,
        }
        write_json(json_file, figures)


def _options(settings: dict[str, str]) -> str:
    return " ".join(f"--set {name}={value}" for name, value in settings.items())
