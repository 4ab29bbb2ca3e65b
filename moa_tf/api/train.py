"""Cross-validation of one model, as a function."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moa_tf.atomic import check_directory, writing
from moa_tf.config import PRECISIONS, Recipe, Settings, override, require, to_assignments
from moa_tf.data.loading import load
from moa_tf.data.storage import CHOICES
from moa_tf.errors import InputError
from moa_tf.models.base import DEFAULT, get_family
from moa_tf.paths import local_path
from moa_tf.startup import ask_determinism, start
from moa_tf.training.reporter import LogReporter, Reporter, Reporters

if TYPE_CHECKING:
    import pandas as pd

    from moa_tf.data.schema import Dataset

Missing = Literal["refuse", "median"]
Backend = Literal["tensorflow", "jax"]
Strategy = Literal["none", "mirrored", "multi-worker", "tpu"]
Storage = Literal["auto", "memory", "disk", "disk-bfloat16"]


@dataclass(frozen=True)
class TrainedRun:
    """What a training has left.

    Attributes:
        directory: the run, which every command takes.
        model: the family.
        preset: with which its hyperparameters began.
        metrics: what `metrics.json` holds, see `moa_tf.training.cross_validation.cross_validate`; empty for a worker
            that does not write.
    """

    directory: Path
    model: str
    preset: str
    metrics: dict[str, Any]

    def out_of_fold(self) -> pd.DataFrame:
        """`fold` and a probability for each target, by `sig_id`: each row by networks that have not seen its drug."""
        import pandas as pd

        return pd.read_parquet(self.directory / "oof.parquet").set_index("sig_id")

    @writing()
    def export(self, root: str | os.PathLike[str] | None = None, reference: bool = True) -> Path:
        """Exports the run as a SavedModel, unless these very models were exported there before.

        Args:
            root: directory of the versions; by default `saved_models/MODEL`.
            reference: name the drugs whose signatures the models hold, where they hold any.

        Returns:
            The version's directory.

        Raises:
            InputError: as `moa_tf.serving.run_export.export_run`.
        """
        from moa_tf.serving.run_export import export_finished, exported_version

        path = Path("saved_models", self.model) if root is None else local_path("root", root)
        there = exported_version(self.directory, path, reference)
        return export_finished(self.directory, path, reference) if there is None else there


@writing()
def train(
    data: Dataset | str | os.PathLike[str] | None = None,
    *,
    model: str = DEFAULT,
    preset: str | None = None,
    settings: Settings | None = None,
    backend: Backend = "tensorflow",
    strategy: Strategy = "none",
    logical_devices: int | None = None,
    split: str = "drug",
    folds: int = 5,
    seeds: int = 1,
    only_fold: int | None = None,
    steer: Literal["inner", "scored"] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    missing: Missing = "refuse",
    precision: str = "float32",
    seed: int = 0,
    storage: Storage = "auto",
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    refit: bool = False,
    pretrain: Literal["features", "nonscored"] | None = None,
    pretrain_also: str | os.PathLike[str] | None = None,
    stack: Literal["nonscored"] | None = None,
    shuffle_labels: bool = False,
    tensorboard: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Reporter] | None = None,
) -> TrainedRun:
    """Cross-validates a model, as `moa-tf train` does; names and defaults are that command's.

    TensorFlow is asked for deterministic operations, in the whole process, so that the same `seed` gives the same run.

    Args:
        data: a dataset, the directory of its tables, or None for a simulated sample.
        model: a family, see `moa_tf.models.base.FAMILIES`.
        preset: named set of hyperparameters; by default by the size of the table.
        settings: any hyperparameters, by name: `{"dropout": 0.3, "hidden": (1024, 1024)}`.
        backend: what Keras runs on. Where it runs already it must be this.
        strategy: `mirrored`: all GPUs of this machine, with JAX its TPU cores too; `multi-worker`: as TF_CONFIG says.
        logical_devices: with `mirrored`, replicas on the CPU.
        split: what is held out: `drug`, `row`, `kaggle`, or the groups of a further column of `train_drug`.
        folds: number of folds.
        seeds: networks in each fold.
        only_fold: train this fold alone, counted from 0.
        steer: what stops training early and chooses, see `moa_tf.config.Recipe`.
        epochs: as the setting.
        batch_size: as the setting; global, over all replicas.
        missing: `median`: genes and cell lines may be missing where the tables are read.
        precision: Keras dtype policy of the networks, or `auto`.
        seed: of everything random.
        storage: where tables and features are kept, `memory`, `disk` for those that are larger, `disk-bfloat16` for
            networks' features in half of the bytes there, or `auto`; a dataset stays where it is.
        out: the run's directory; by default `runs/MODEL-DATE-TIME`.
        resume: go on with the run in `out`.
        refit: also train networks on all rows, to be exported instead of the folds'.
        pretrain: first learn to reconstruct `features` (TabNet), or the `nonscored` targets.
        pretrain_also: a table of unlabelled signatures that pretraining sees too.
        stack: predictions of the nonscored targets as further features.
        shuffle_labels: permute labels among drugs, as a control.
        tensorboard: a directory for TensorBoard's event files, see `moa_tf.training.tensorboard.TensorBoard`.
        callbacks: who is told of the progress; by default one that gives messages to the logger `moa_tf`.

    Returns:
        The run, its figures, and a way to export it.

    Raises:
        InputError: one line for each fault of the call or the data. A ValueError.
    """
    if resume and out is None:
        raise InputError("--resume: expected --out with the directory of the run to go on with")
    if pretrain_also is not None and pretrain != "features":
        raise InputError("--pretrain-also: expected --pretrain with it, without labels")
    check_choices(missing, precision, storage)
    require(pretrain in (None, "features", "nonscored"), "pretrain", pretrain, "features or nonscored")
    require(stack in (None, "nonscored"), "stack", stack, "nonscored")
    directory = None if out is None else local_path("out", out)
    check_directory(directory or Path("runs"))
    start(backend)
    from moa_tf.data.read import read_features
    from moa_tf.training.cross_validation import Validation, cross_validate
    from moa_tf.training.network_learner import NetworkLearner
    from moa_tf.training.run import Run
    from moa_tf.training.strategy import make_placement

    family = get_family(model)
    placement = make_placement(strategy, logical_devices)
    ask_determinism(family.deterministic_on_gpu)
    reporter = all_of(callbacks, tensorboard)
    if strategy != "multi-worker" and os.environ.get("TF_CONFIG"):
        reporter.message(f"TF_CONFIG is set, and not used by --strategy {strategy}")
    dataset = load(
        source(data), seed, missing == "median", reporter.message, storage, directory or Path("runs")
    )
    chosen = preset or family.choose_preset(len(dataset))
    if chosen not in family.presets:
        raise InputError(f"--preset {chosen}: expected one of {', '.join(family.presets)}")
    options = {"epochs": epochs, "batch_size": batch_size, "steer": steer}
    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    given += to_assignments(settings)
    hyperparameters = override(family.presets[chosen], given)
    ignored = _ignored(given, precision) if family.solve is not None else []
    if ignored:
        reporter.message(f"{model} is solved, not trained in epochs: ignored {', '.join(ignored)}")
    reporter.message(
        f"{model}, preset {chosen}{'' if preset else f' (by itself for {len(dataset)} signatures)'}, "
        f"{folds} folds by {split} × {seeds} seeds, {placement.replicas} replicas, by {backend}"
    )
    learner = NetworkLearner(
        family,
        hyperparameters,
        placement,
        chosen,
        precision,
        pretrain or "",
        stack or "",
        read_features(local_path("pretrain_also", pretrain_also), dataset.signatures.spec, reporter.message)
        if pretrain_also is not None
        else None,
    )
    run = Run(directory or Path("runs", f"{model}-{time.strftime('%Y%m%d-%H%M%S')}"), fresh=out is None)
    metrics = cross_validate(
        dataset,
        learner,
        Validation(split, folds, seeds, seed, shuffle_labels),
        run,
        only_fold=only_fold,
        refit=refit,
        resume=resume,
        reporter=reporter,
    )
    return TrainedRun(run.directory, model, chosen, metrics)


def check_choices(missing: str, precision: str, storage: str = "memory") -> None:
    """Refuses what is none of the choices, with one clear line."""
    require(storage in CHOICES, "storage", storage, f"one of {', '.join(CHOICES)}")
    require(missing in ("refuse", "median"), "missing", missing, "refuse or median")
    require(precision in PRECISIONS, "precision", precision, f"one of {', '.join(PRECISIONS)}")


def source(data: Dataset | str | os.PathLike[str] | None) -> Dataset | Path | None:
    """`data` as `load` takes it.

    Raises:
        InputError: no path on this machine.
    """
    return local_path("data", data) if isinstance(data, (str, os.PathLike)) else data


def all_of(callbacks: Sequence[Reporter] | None, tensorboard: str | os.PathLike[str] | None) -> Reporter:
    """The callbacks, or the one that stands in for them, and TensorBoard's."""
    reporters: list[Reporter] = [LogReporter()] if callbacks is None else list(callbacks)
    if tensorboard is not None:
        from moa_tf.training.tensorboard import TensorBoard

        reporters.append(TensorBoard(local_path("tensorboard", tensorboard)))
    return Reporters(reporters)


def _ignored(assignments: Sequence[str], precision: str) -> list[str]:
    """Which settings say nothing to a family with a solver: those of the recipe, but which rows there are."""
    recipe = {each.name for each in dataclasses.fields(Recipe)} - {"train_on_controls"}
    given = [each for each in assignments if each.partition("=")[0] in recipe]
    return given + [f"precision={precision}"] * (precision not in ("float32", "auto"))
