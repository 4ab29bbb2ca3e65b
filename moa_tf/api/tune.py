"""Search for a model's hyperparameters, as a function."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moa_tf.api.train import Backend, Missing, Strategy, all_of, check_choices, source
from moa_tf.atomic import check_directory, writing
from moa_tf.config import Settings, override, require, to_assignments
from moa_tf.data.loading import load
from moa_tf.errors import InputError
from moa_tf.models.base import DEFAULT, get_family
from moa_tf.paths import local_path
from moa_tf.startup import ask_determinism, start
from moa_tf.training.reporter import Reporter

if TYPE_CHECKING:
    import pandas as pd

    from moa_tf.data.schema import Dataset
    from moa_tf.training.tuning import Trial


@dataclass(frozen=True)
class TunedModel:
    """What a search has found.

    Attributes:
        directory: the search, which goes on when it is called again.
        model: the family.
        preset: what was tried first, and what all else is changed from.
        trials: all of them, in their order.
        simulated: whether the data are.
    """

    directory: Path
    model: str
    preset: str
    trials: Sequence[Trial]
    simulated: bool

    @property
    def best(self) -> Trial:
        """The one of least log loss."""
        return min(self.trials, key=lambda trial: trial.log_loss)

    @property
    def settings(self) -> Mapping[str, str]:
        """The best one's, for `train(…, preset=tuned.preset, settings=tuned.settings)`."""
        return self.best.settings

    def table(self) -> pd.DataFrame:
        """A row a trial: `log_loss`, then its settings."""
        import pandas as pd

        rows = [{"log_loss": trial.log_loss, **trial.settings} for trial in self.trials]
        return pd.DataFrame(rows).rename_axis("trial")


@writing()
def tune(
    data: Dataset | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    model: str = DEFAULT,
    trials: int = 20,
    inner_folds: int = 3,
    preset: str | None = None,
    settings: Settings | None = None,
    backend: Backend = "tensorflow",
    strategy: Strategy = "none",
    logical_devices: int | None = None,
    split: str = "drug",
    folds: int = 5,
    seeds: int = 1,
    only_fold: int = 0,
    missing: Missing = "refuse",
    precision: str = "float32",
    seed: int = 0,
    callbacks: Sequence[Reporter] | None = None,
) -> TunedModel:
    """Searches for hyperparameters, as `moa-tf tune` does; names and defaults are that command's.

    Trials are judged on inner folds of the training rows of the fold `only_fold`. What that fold holds out is never
    looked at, so that a run with `only_fold` says what the best settings are worth on other drugs.

    Args:
        data: a dataset, or the directory of its tables.
        out: directory of the search; called again, it goes on there.
        model: a family.
        trials: how many in all, the preset itself among them.
        inner_folds: the training rows are split into so many, each of which is judged in turn.
        preset: see `train`, as the other arguments that are not listed here.
        settings: for all trials; what the search tries takes their place.
        backend: see `train`.
        strategy: `none` or `mirrored`.
        logical_devices: see `train`.
        split: see `train`.
        folds: see `train`.
        seeds: networks in each inner fold.
        only_fold: the fold whose training rows are searched on.
        missing: see `train`.
        precision: see `train`.
        seed: of everything random, the suggestions too.
        callbacks: see `train`.

    Raises:
        InputError: one line for each fault of the call or the data. A ValueError.
    """
    directory = local_path("out", out)
    check_choices(missing, precision)
    for name, value, least in (("trials", trials, 1), ("inner_folds", inner_folds, 2), ("seeds", seeds, 1)):
        require(value >= least, name, value, f"at least {least}")
    require(0 <= only_fold < folds, "only_fold", only_fold, f"0 to {folds - 1}")
    require(strategy in ("none", "mirrored"), "strategy", strategy, "none or mirrored")
    if importlib.util.find_spec("optuna") is None:
        raise InputError("tune: needs moa-tf[tune] (pip install 'moa-tf[tune]')")
    check_directory(directory)
    start(backend)
    from moa_tf.training.cross_validation import Validation, describe, make_folds
    from moa_tf.training.fold import check_fold
    from moa_tf.training.fold import inner_folds as split_again
    from moa_tf.training.network_learner import NetworkLearner
    from moa_tf.training.run import identity
    from moa_tf.training.strategy import make_placement
    from moa_tf.training.tuning import held_out_loss, search

    family = get_family(model)
    placement = make_placement(strategy, logical_devices)
    ask_determinism(family.deterministic_on_gpu)
    reporter = all_of(callbacks, None)
    dataset = load(source(data), seed, missing == "median", reporter.message)
    chosen = preset or family.choose_preset(len(dataset))
    if chosen not in family.presets:
        raise InputError(f"--preset {chosen}: expected one of {', '.join(family.presets)}")
    hyperparameters = override(family.presets[chosen], to_assignments(settings))

    def learner(changes: Mapping[str, str]) -> NetworkLearner:
        changed = override(hyperparameters, to_assignments(changes))
        return NetworkLearner(family, changed, placement, chosen, precision)

    first, validation = learner({}), Validation(split, folds, seeds, seed)
    fold = make_folds(dataset, validation, first.train_on_controls)[only_fold]
    check_fold(fold, dataset)
    inner = split_again(fold, dataset, inner_folds, seed)
    if len(inner) < 2:
        raise InputError(
            f"{dataset.source}: too few drugs to hold any out of fold {only_fold}'s training rows"
        )
    reporter.message(
        f"{model}, preset {chosen}: {trials} trials on {len(inner)} inner folds of {len(fold.train)} signatures; fold "
        f"{only_fold} of {folds} by {split}, {len(fold.held_out)} signatures, is not looked at"
    )
    description = {
        **identity(describe(model, first.settings(), first.inputs(), dataset, validation)),
        "search": {"only_fold": only_fold, "inner_folds": inner_folds},
    }
    reporter.start(trials * len(inner) * seeds)

    def objective(changes: Mapping[str, str]) -> float:
        return held_out_loss(learner(changes), dataset, inner, seeds, seed, reporter)

    found = search(objective, family.space(hyperparameters), trials, directory, description, seed, reporter)
    return TunedModel(directory, model, chosen, found, dataset.simulated)
