import dataclasses
import json

import numpy as np
import pytest

from moa_tf.config import Recipe, override
from moa_tf.data.schema import CONTROL
from moa_tf.errors import InputError
from moa_tf.models.base import get_family
from moa_tf.training.choice import Choice, choose, read_choice
from moa_tf.training.cross_validation import Validation, cross_validate, make_folds
from moa_tf.training.fold import inner_folds
from moa_tf.training.follow import Course
from moa_tf.training.network import training_length
from moa_tf.training.network_learner import NetworkLearner
from moa_tf.training.reporter import Reporter
from moa_tf.training.run import Run, write_text

RECIPE = Recipe(decays=(0.1, 0.01, 1.0), early_stopping=2)
LOSSES = {0.1: [0.5, 0.3, 0.4, 0.6], 0.01: [0.5, 0.4, 0.2, 0.25, 0.3], 1.0: [0.6, 0.6, 0.21]}


def history(losses):
    epochs = [{"learning_rate": 0.1, "held_out_log_loss": loss} for loss in losses]
    return {"epochs": epochs, "best_epoch": int(np.argmin(losses)), "planned": 10}


def test_the_decay_with_the_best_epoch_is_taken_by_hand(tmp_path, messages):
    asked = []

    def train(recipe, label, checkpoint):
        asked.append((recipe.weight_decay, recipe.decays))
        return history(LOSSES[recipe.weight_decay])

    choice = choose(RECIPE, train, tmp_path, "fold 3", messages, writes=True)
    assert asked == [(0.1, ()), (0.01, ()), (1.0, ())]
    assert (choice.weight_decay, choice.course, choice.log_loss) == (0.01, Course(0.3), 0.2)
    assert [trial["fraction"] for trial in choice.trials] == [0.2, 0.3, 0.3]
    assert messages.lines[-1].startswith("fold 3: weight decay 0.01, 30% of the schedule")
    write_text(tmp_path / "choice.json", choice.to_dict())
    read = read_choice(tmp_path / "choice.json")
    assert (read.weight_decay, read.course, read.log_loss) == (0.01, Course(0.3), 0.2)
    # What was tried is not tried again; without early stopping the last epoch counts, which is what is kept.
    recipe = dataclasses.replace(RECIPE, early_stopping=0)
    choice = choose(recipe, None, tmp_path, "fold 3", messages, writes=True)
    assert (choice.weight_decay, choice.course, choice.log_loss) == (1.0, Course(1.0), 0.21)


def test_what_the_choice_leaves_is_a_recipe_without_a_choice():
    recipe = Choice(0.01, Course(0.3)).apply(RECIPE)
    assert (recipe.weight_decay, recipe.decays, recipe.early_stopping) == (0.01, (), 2)


@pytest.mark.parametrize("split", ["drug", "row", "lab"])
def test_inner_folds_hold_out_what_the_folds_hold_out(split, dataset):
    lab = np.array([f"lab {sum(drug.encode()) % 12}" for drug in dataset.drug_id], object)
    dataset = dataclasses.replace(dataset, groups={"lab": lab})
    fold = make_folds(dataset, Validation(split, 3), train_on_controls=True)[1]
    inner = inner_folds(fold, dataset, 4, seed=5)
    names = {"drug": dataset.drug_id, "row": dataset.signatures.sig_id, "lab": lab}[split]
    assert len(inner) == 4
    held_out = np.concatenate([one.held_out for one in inner])
    assert sorted(held_out) == sorted(fold.train)
    for one in inner:
        assert sorted([*one.train, *one.held_out]) == sorted(fold.train)
        assert not set(names[one.train]) & set(names[one.held_out])
        assert len(one.judged)
        assert not (dataset.signatures.control[one.judged]).any()
    if split == "row":  # Only then a drug is on both sides.
        assert set(dataset.drug_id[inner[0].train]) & set(dataset.drug_id[inner[0].judged])


def test_one_drug_cannot_be_held_out_of_itself(dataset):
    control = dataset.signatures.cp_type == CONTROL
    drug = np.where(control, dataset.drug_id, "the one")
    held_out = np.arange(len(dataset)) >= 200
    fold = make_folds(dataset, Validation(folds=3), train_on_controls=False)[0]
    rows = np.flatnonzero(~control & ~held_out)
    fold = dataclasses.replace(fold, train=rows, unit=np.unique(drug[rows], return_inverse=True)[1])
    assert inner_folds(fold, dataset, 5, 0) == []


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # 3 steps a pass, 9 passes an epoch: 27 steps; 38 of them are 1,026.
        (240, (64, 9, 27, 38)),
        (64, (64, 25, 25, 40)),
        # A pass of a large table is an epoch.
        (6400, (64, 1, 100, 10)),
    ],
)
def test_the_length_in_steps_by_hand(rows, expected):
    assert dataclasses.astuple(training_length(Recipe(steps=1000, batch_size=64), rows, 1)) == expected


def test_epochs_are_meant_by_whoever_asks_for_them():
    preset = get_family("mlp").presets["small"]
    assert preset.recipe.steps > 0
    assert override(preset, ["epochs=7"]).recipe.steps == 0
    assert override(preset, ["epochs=7", "steps=9"]).recipe.steps == 9
    with pytest.raises(InputError, match="decays"):
        override(preset, ["steer=scored"])


class Killed(Reporter):
    def __init__(self, trainings):
        self.left, self.labels = trainings, []

    def member(self, label, epochs, steps):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.labels.append(label)


def test_a_run_chooses_in_each_fold_and_resumes_without_a_trial_made_twice(
    dataset, hyperparameters, placement, tmp_path
):
    config = override(hyperparameters, ["decays=1e-3,1", "early_stopping=1", "learning_rate=0.02"])
    learner = NetworkLearner(get_family("mlp"), config, placement)

    def go(name, reporter, **options):
        run = Run(tmp_path / name)
        return cross_validate(dataset, learner, Validation(folds=2), run, reporter=reporter, **options)

    whole = Killed(99)
    metrics = go("whole", whole, refit=True)
    # Two trials and a network for both folds and for all rows.
    assert len(whole.labels) == 9
    for number, name in enumerate(["fold-0", "fold-1"]):
        chosen = json.loads((tmp_path / "whole" / name / "choice.json").read_text())
        assert metrics["folds"][number]["chosen"] == [chosen]
        assert chosen["weight_decay"] in (1e-3, 1)
        assert chosen["log_loss"] == min(trial["log_loss"] for trial in chosen["trials"])
        epochs = json.loads((tmp_path / "whole" / name / "seed-0" / "history.json").read_text())["epochs"]
        assert len(epochs) == max(1, round(chosen["course"]["fraction"] * 3))
    killed = Killed(5)
    with pytest.raises(KeyboardInterrupt):
        go("killed", killed, refit=True)
    resumed = Killed(99)
    go("killed", resumed, refit=True, resume=True)
    assert killed.labels + resumed.labels == whole.labels
    assert (tmp_path / "killed/oof.parquet").read_bytes() == (tmp_path / "whole/oof.parquet").read_bytes()


def test_steering_by_scored_rows_goes_with_the_figures(dataset, hyperparameters, placement, tmp_path):
    config = override(hyperparameters, ["early_stopping=1", "steer=scored"])
    learner = NetworkLearner(get_family("mlp"), config, placement)
    metrics = cross_validate(dataset, learner, Validation(folds=2), Run(tmp_path / "r"), only_fold=0)
    assert metrics["caveat"] == "steered by the scored rows, which flatters"
    history = json.loads((tmp_path / "r/fold-0/seed-0/history.json").read_text())
    losses = [epoch["held_out_log_loss"] for epoch in history["epochs"]]
    assert history["best_epoch"] == int(np.argmin(losses))
    assert metrics["folds"][0]["log_loss_treated"] == pytest.approx(min(losses), rel=1e-5)
