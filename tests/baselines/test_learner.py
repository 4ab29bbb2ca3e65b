"""What all baselines have in common."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from moa_tf.errors import InputError
from moa_tf.explanation.sources import open_source
from moa_tf.serving.run_export import export_run
from moa_tf.training.cross_validation import Validation, cross_validate, make_folds
from moa_tf.training.fold import inner_folds
from moa_tf.training.reporter import Reporter
from moa_tf.training.run import Run

VALIDATION = Validation(folds=3, seeds=1, seed=1)


@pytest.fixture(scope="session")
def runs(dataset, quick, tmp_path_factory):
    """Name -> run and metrics, made when it is first asked for."""
    made = {}

    def run(name):
        if name not in made:
            out = tmp_path_factory.mktemp("runs") / name
            made[name] = out, cross_validate(dataset, quick(name), VALIDATION, Run(out))
        return made[name]

    return run


def history(run, fold):
    return json.loads((run / f"fold-{fold}/seed-0/history.json").read_text())


def test_signal_is_found(name, runs):
    overall = runs(name)[1]["overall"]
    if name == "prior":
        assert overall["log_loss_treated"] == pytest.approx(overall["prior_log_loss_treated"], rel=1e-6)
        assert overall["macro_auroc"] == 0.5
    else:
        assert overall["log_loss_treated"] < 0.8 * overall["prior_log_loss_treated"]
        # The fifth target has one row.
        assert overall["macro_auroc"] > (4 * 0.9 + 0.5) / 5


def test_shuffled_labels_are_at_chance(name, dataset, quick, tmp_path):
    shuffled = dataclasses.replace(VALIDATION, shuffle_labels=True)
    overall = cross_validate(dataset, quick(name), shuffled, Run(tmp_path / "a"))["overall"]
    low, high = overall["intervals"]["macro_auroc"]
    assert low - 0.05 < 0.5 < high + 0.05
    assert overall["log_loss_treated"] > 0.98 * overall["prior_log_loss_treated"]


def test_a_target_with_too_few_positives_has_its_mean(name, runs, dataset):
    run = runs(name)[0]
    for number, fold in make_folds(dataset, VALIDATION, False).items():
        predicted = np.load(run / f"fold-{number}/seed-0/predictions.npy")
        assert predicted.dtype == np.float32
        assert history(run, number)["fallbacks"] == 1
        # One positive of 120 rows, or none and the floor.
        mean = max(dataset.targets[fold.train, 4].mean(), 1e-5)
        np.testing.assert_allclose(predicted[:, 4], mean, rtol=1e-6)
        assert (predicted >= np.float32(1e-5)).all()
        assert (predicted <= 1 - 1e-5).all()


def test_what_was_chosen_is_kept(runs):
    run, metrics = runs("knn")
    for fold in metrics["folds"]:
        (chosen,) = fold["chosen"]
        assert chosen == history(run, fold["fold"])["chosen"]
        assert chosen["k"] in (10, 5)
        assert chosen["smoothing"] in (3.0, 1.0)
        assert 0 < chosen["inner_log_loss"] < fold["prior_log_loss_treated"]
    assert history(runs("ridge")[0], 0)["parameters"] == 4 * (20 + 2 + 1)
    assert history(runs("prior")[0], 0)["chosen"] == {"inner_log_loss": None}


def test_the_choice_has_the_least_loss_on_inner_folds(dataset, quick, tmp_path):
    learner = quick("knn")
    fold = make_folds(dataset, VALIDATION, False)[0]
    features, _ = learner.prepare(dataset, fold, 0, tmp_path, True, Reporter())
    _, told = learner.fit(dataset, features, fold, 3, tmp_path, "", Reporter())
    losses = {}
    for k in (10, 5):
        for smoothing in (3.0, 1.0):
            total, count = 0.0, 0
            for inner in inner_folds(fold, dataset, 2, 3):
                y = dataset.targets[inner.train].astype(float)
                x, z = (features[rows].astype(float) for rows in (inner.train, inner.judged))
                unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (x, z)]
                nearest = np.argsort(-unit[1] @ unit[0].T, axis=1)[:, :k]
                mean = np.clip(y.mean(0), 1e-5, 1 - 1e-5)
                p = (y[nearest].sum(1) + smoothing * mean) / (k + smoothing)
                p[:, 4] = mean[4]
                t = dataset.targets[inner.judged]
                total -= np.sum(np.where(t > 0, np.log(p), np.log(1 - p)))
                count += t.size
            losses[k, smoothing] = total / count
    best = min(losses, key=losses.get)
    assert (told["chosen"]["k"], told["chosen"]["smoothing"]) == best
    assert told["chosen"]["inner_log_loss"] == pytest.approx(losses[best], rel=1e-5)


def test_a_large_table_is_judged_on_one_inner_fold(dataset, quick, messages, tmp_path):
    learner = quick("ridge")
    learner.config = dataclasses.replace(learner.config, large=100)
    cross_validate(dataset, learner, VALIDATION, Run(tmp_path / "a"), only_fold=1, reporter=messages)
    assert messages.members == [("fold 1 seed 0", 1, 2)]
    assert messages.batches == 2


def test_a_deleted_member_is_fitted_again_to_the_same(name, runs, dataset, quick, tmp_path):
    shutil.copytree(runs(name)[0], tmp_path / "a")
    before = np.load(tmp_path / "a/fold-1/seed-0/predictions.npy")
    shutil.rmtree(tmp_path / "a/fold-1/seed-0")
    metrics = cross_validate(dataset, quick(name), VALIDATION, Run(tmp_path / "a"), resume=True)
    np.testing.assert_array_equal(np.load(tmp_path / "a/fold-1/seed-0/predictions.npy"), before)
    assert metrics["overall"] == runs(name)[1]["overall"]


def test_held_out_rows_change_no_prediction(name, runs, dataset, quick, tmp_path):
    """Half of the held-out rows are replaced, features and labels: the predictions of the other half stay."""
    held_out = make_folds(dataset, VALIDATION, False)[0].held_out
    poisoned, clean = held_out[::2], held_out[1::2]
    genes, targets = dataset.signatures.genes.copy(), dataset.targets.copy()
    genes[poisoned] = 70
    targets[held_out] = 1 - targets[held_out]
    fold = make_folds(dataset, VALIDATION, False)[0]
    other = dataclasses.replace(
        dataset, signatures=dataclasses.replace(dataset.signatures, genes=genes), targets=targets
    )
    learner = quick(name)
    seed = int(np.random.SeedSequence([VALIDATION.seed, 0, 0]).generate_state(1)[0] >> 1)
    features, _ = learner.prepare(other, fold, 0, tmp_path, True, Reporter())
    predicted, _ = learner.fit(other, features, fold, seed, tmp_path, "", Reporter())
    before = np.load(runs(name)[0] / "fold-0/seed-0/predictions.npy")
    np.testing.assert_array_equal(predicted[np.isin(held_out, clean)], before[np.isin(held_out, clean)])


def test_missing_values_are_filled_within_the_fold(dataset, quick, tmp_path):
    genes = dataset.signatures.genes.copy()
    genes[::3, 0] = np.nan
    spec = dataclasses.replace(dataset.signatures.spec, missing=True)
    gaps = dataclasses.replace(dataset.signatures, spec=spec, genes=genes)
    metrics = cross_validate(
        dataclasses.replace(dataset, signatures=gaps), quick("knn"), VALIDATION, Run(tmp_path / "a")
    )
    assert metrics["overall"]["macro_auroc"] > 0.8


def test_run_json_says_what_it_was(runs, quick, dataset):
    run, _ = runs("lightgbm")
    description = Run(run).description
    assert description["model"] == "lightgbm"
    assert description["settings"]["baseline"]["rounds"] == [5, 10]
    assert description["settings"]["library"][0].isdigit()
    assert description["plan"]["files"] == description["plan"]["shared"] == []
    learner = quick("lightgbm")
    learner.config = dataclasses.replace(learner.config, depth=2)
    with pytest.raises(InputError, match=r"settings\.baseline\.depth was 3, now 2;"):
        cross_validate(dataset, learner, VALIDATION, Run(run), resume=True)


def test_one_fold_then_the_others(dataset, quick, runs, tmp_path):
    metrics = cross_validate(dataset, quick("ridge"), VALIDATION, Run(tmp_path / "a"), only_fold=2)
    assert [fold["fold"] for fold in metrics["folds"]] == [2]
    metrics = cross_validate(dataset, quick("ridge"), VALIDATION, Run(tmp_path / "a"), resume=True)
    tables = [pd.read_parquet(run / "oof.parquet") for run in (tmp_path / "a", runs("ridge")[0])]
    pd.testing.assert_frame_equal(*tables)


def test_a_refit_leaves_nothing_and_breaks_nothing(dataset, quick, runs, tmp_path):
    metrics = cross_validate(dataset, quick("ridge"), VALIDATION, Run(tmp_path / "a"), refit=True)
    assert metrics["overall"] == runs("ridge")[1]["overall"]
    assert np.load(tmp_path / "a/fold-all/seed-0/predictions.npy").shape == (0, 5)


@pytest.mark.parametrize("use", [lambda run, out: export_run(run, out), lambda run, out: open_source(run)])
def test_what_needs_a_network_says_so(use, runs, tmp_path):
    with pytest.raises(InputError, match="a run of ridge, which has no Keras networks") as error:
        use(runs("ridge")[0], tmp_path / "out")
    assert "\n" not in str(error.value)


def test_every_baseline_is_listed_under_its_name(name, quick):
    assert quick(name).name == name
