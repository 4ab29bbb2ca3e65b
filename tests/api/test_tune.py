"""The search for hyperparameters: what is suggested goes on after a kill, and the held-out fold is not looked at."""

import dataclasses
import json
import math
import shlex

import numpy as np
import pytest

import moa_tf
from moa_tf.config import override
from moa_tf.data.read import complete, read_dataset
from moa_tf.errors import InputError
from moa_tf.models.base import FAMILIES, get_family
from moa_tf.models.space import Choice, Range
from moa_tf.training.cross_validation import Validation, make_folds
from moa_tf.training.reporter import Reporter
from moa_tf.training.tuning import STUDY, search

pytest.importorskip("optuna")

SPACE = {
    "learning_rate": Range(1e-4, 1e-1, log=True),
    "dropout": Range(0, 0.7, copies=2),
    "hidden": Choice(("8", "16")),
}


def bowl(settings):
    """Least at 1e-2 and .3; the preset is at 1."""
    if not settings:
        return 1.0
    rate, dropout = float(settings["learning_rate"]), float(settings["dropout"].split(",")[0])
    if dropout > 0.6:
        raise InputError("learning_rate: the loss is nan")
    return (math.log10(rate) + 2) ** 2 + (dropout - 0.3) ** 2


def run(directory, trials, objective=bowl, description=("a",)):
    return search(objective, SPACE, trials, directory, {"what": list(description)}, 3, Reporter())


def test_a_search_that_was_killed_goes_on_to_the_same_trials(tmp_path):
    whole = run(tmp_path / "whole", 14)
    assert whole[0].settings == {}
    assert min(trial.log_loss for trial in whole) < 0.2
    rate, dropout = whole[1].settings["learning_rate"], whole[1].settings["dropout"]
    assert 1e-4 <= float(rate) <= 1e-1
    assert dropout == ",".join([dropout.split(",")[0]] * 2)

    calls = []

    def ended(settings):
        calls.append(settings)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return bowl(settings)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", 14, ended)
    # As a kill within a write, or with the lock held, would leave them.
    with (tmp_path / "part" / STUDY).open("a") as file:
        file.write('{"op_code": 4, "worker')
    (tmp_path / "part" / f"{STUDY}.lock").symlink_to(tmp_path / "part" / STUDY)
    assert run(tmp_path / "part", 6) == whole[:6]
    assert run(tmp_path / "part", 14) == whole
    assert run(tmp_path / "part", 2) == whole  # nothing more to do


def test_what_is_another_search_is_refused(tmp_path):
    run(tmp_path / "a", 1)
    with pytest.raises(InputError, match=r"what was \['a'\], now \['b'\]; expected another --out"):
        run(tmp_path / "a", 1, description=("b",))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="not empty and no search"):
        run(tmp_path / "mine", 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_familys_space_fits_its_presets(name):
    family = get_family(name)
    for preset in family.presets.values():
        space = family.space(preset)
        assert space
        for key, kind in space.items():
            ends = kind.values if isinstance(kind, Choice) else [kind.low, kind.high]
            for value in ends:
                copies = 1 if isinstance(kind, Choice) else kind.copies
                override(preset, [f"{key}={','.join([str(value)] * copies)}"])


def test_the_command_prints_what_train_takes(data, call, tmp_path):
    options = ["--model", "linear", "--trials", 3, "--inner-folds", 2, "--folds", 2, "--only-fold", 1]
    code, out, err = call("tune", data, *options, "--out", "t", "--json", "f.json")
    assert code == 0, err
    figures = json.loads((tmp_path / "f.json").read_text())
    losses = [trial["log_loss"] for trial in figures["trials"]]
    assert figures["best"]["log_loss"] == min(losses)
    assert figures["trials"][0]["settings"] == {}
    line = shlex.split(out.partition("Next: ")[2].splitlines()[0])
    assert line[:3] == ["moa-tf", "train", "--data"]
    assert "--folds 2 --only-fold 1" in out
    given = [line[place + 1] for place, word in enumerate(line) if word == "--set"]
    assert dict(each.split("=") for each in given) == figures["best"]["settings"]

    # What the fold holds out has no part in it.
    dataset = read_dataset(data)
    held_out = make_folds(dataset, Validation(folds=2), False)[1].held_out
    genes = dataset.signatures.genes.copy()
    genes[held_out] = np.random.default_rng(0).normal(size=genes[held_out].shape)
    other = complete(
        dataclasses.replace(dataset, signatures=dataclasses.replace(dataset.signatures, genes=genes))
    )
    again = moa_tf.tune(
        other, model="linear", trials=1, inner_folds=2, folds=2, only_fold=1, out=tmp_path / "o"
    )
    assert again.trials[0].log_loss == pytest.approx(losses[0], abs=1e-6)
    with pytest.raises(InputError, match="expected another --out"):
        moa_tf.tune(other, model="linear", trials=1, inner_folds=2, folds=2, only_fold=1, out=tmp_path / "t")
    assert list(again.table().columns) == ["log_loss"]


def test_wrong_calls(data, tmp_path):
    for options, message in (
        ({"trials": 0}, "trials=0: expected at least 1"),
        ({"only_fold": 5}, "only_fold=5: expected 0 to 4"),
        ({"strategy": "multi-worker"}, "strategy=multi-worker: expected none or mirrored"),
        ({"settings": {"width": 1}}, "expected key=value"),
    ):
        with pytest.raises(InputError, match=message):
            moa_tf.tune(data, out=tmp_path / "t", **options)
