import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from moa_tf.config import override
from moa_tf.data.folds import assign_folds
from moa_tf.data.simulate import simulate
from moa_tf.errors import InputError
from moa_tf.evaluation.metrics import mean_log_loss
from moa_tf.models.base import get_family
from moa_tf.training.cross_validation import Validation, cross_validate
from moa_tf.training.members import load_members
from moa_tf.training.network_learner import NetworkLearner
from moa_tf.training.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset, learner, validation):
    out = tmp_path_factory.mktemp("runs") / "a"
    metrics = cross_validate(dataset, learner, validation, Run(out), refit=True)
    return out, metrics


def test_every_row_is_predicted_once_by_its_own_fold(run, dataset, validation):
    oof = pd.read_parquet(run[0] / "oof.parquet")
    assert list(oof.columns) == ["sig_id", "fold", *dataset.target_names]
    assert oof.sig_id.tolist() == dataset.signatures.sig_id.tolist()
    folds = assign_folds(dataset.targets, dataset.drug_id, "drug", 3, validation.seed)
    np.testing.assert_array_equal(oof.fold, folds)


def test_out_of_fold_is_the_mean_over_seeds_and_zero_for_controls(run, dataset):
    oof = pd.read_parquet(run[0] / "oof.parquet")
    rows = np.flatnonzero(oof.fold == 1)
    seeds = [np.load(run[0] / f"fold-1/seed-{seed}/predictions.npy") for seed in (0, 1)]
    assert np.abs(seeds[0] - seeds[1]).max() > 1e-4
    treated = ~dataset.signatures.control[rows]
    predicted = oof.iloc[rows, 2:].to_numpy()
    np.testing.assert_allclose(predicted[treated], np.mean(seeds, axis=0)[treated], atol=1e-7)
    assert (predicted[~treated] == 0).all()
    assert (~treated).any() or dataset.signatures.control.any()


def test_metrics_are_those_of_the_table(run, dataset):
    oof = pd.read_parquet(run[0] / "oof.parquet").iloc[:, 2:].to_numpy()
    metrics = json.loads((run[0] / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(run[1]))
    assert metrics["overall"]["log_loss_all"] == pytest.approx(mean_log_loss(dataset.targets, oof))
    treated = ~dataset.signatures.control
    assert metrics["overall"]["log_loss_treated"] == pytest.approx(
        mean_log_loss(dataset.targets[treated], oof[treated])
    )
    assert metrics["simulated"] is True


def test_the_prior_is_that_of_the_training_fold(run, dataset, validation):
    folds = assign_folds(dataset.targets, dataset.drug_id, "drug", 3, validation.seed)
    treated = ~dataset.signatures.control
    rows = (folds == 2) & treated
    prior = dataset.targets[(folds != 2) & treated].mean(0)
    expected = mean_log_loss(dataset.targets[rows], np.broadcast_to(prior, (rows.sum(), len(prior))))
    assert run[1]["folds"][2]["prior_log_loss_treated"] == pytest.approx(expected, rel=1e-5)


def test_the_same_seed_gives_identical_predictions(run, dataset, learner, validation, tmp_path):
    cross_validate(dataset, learner, validation, Run(tmp_path / "b"), only_fold=1)
    for seed in (0, 1):
        again = np.load(tmp_path / f"b/fold-1/seed-{seed}/predictions.npy")
        np.testing.assert_array_equal(again, np.load(run[0] / f"fold-1/seed-{seed}/predictions.npy"))


def test_a_finished_run_is_not_overwritten(run, dataset, learner, validation):
    with pytest.raises(InputError, match="--resume"):
        cross_validate(dataset, learner, validation, Run(run[0]))


def test_resume_trains_nothing_again(run, dataset, learner, validation, messages):
    before = {path: path.stat().st_mtime_ns for path in run[0].rglob("*.keras")}
    metrics = cross_validate(
        dataset, learner, validation, Run(run[0]), refit=True, resume=True, reporter=messages
    )
    assert metrics == run[1]
    assert messages.trained == []
    assert before == {path: path.stat().st_mtime_ns for path in run[0].rglob("*.keras")}


def test_resume_with_other_settings_says_which(run, dataset, learner, validation):
    other = NetworkLearner(learner.family, override(learner.hyperparameters, ["epochs=9"]), learner.placement)
    with pytest.raises(InputError, match=r"settings\.recipe\.epochs was 3, now 9;"):
        cross_validate(dataset, other, validation, Run(run[0]), resume=True)


def test_resume_with_other_data_is_refused(run, dataset, learner, validation):
    with pytest.raises(InputError, match=r"data\.fingerprint was"):
        cross_validate(
            dataclasses.replace(dataset, fingerprint="x"), learner, validation, Run(run[0]), resume=True
        )


def test_members_of_a_refitted_run_are_those_trained_on_all_rows(run):
    members = load_members(run[0])
    assert [len(member.networks) for member in members] == [2]
    assert [fold.name for fold in Run(run[0]).finished_models()] == ["all"]


def test_only_fold_outside_the_folds(dataset, learner, validation, tmp_path):
    with pytest.raises(InputError, match="expected 0 to 2"):
        cross_validate(dataset, learner, validation, Run(tmp_path / "x"), only_fold=3)


def test_a_loss_that_is_not_finite_is_one_line(dataset, learner, validation, tmp_path):
    wild = override(learner.hyperparameters, ["learning_rate=1e30"])
    with pytest.raises(InputError, match="lower learning rate"):
        cross_validate(
            dataset, NetworkLearner(learner.family, wild, learner.placement), validation, Run(tmp_path / "x")
        )


def test_a_directory_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match=r"no run\.json"):
        load_members(tmp_path)


@pytest.mark.slow
def test_shuffled_labels_score_at_chance(placement, tmp_path):
    # Drugs enough that chance itself is known to a few hundredths.
    dataset = simulate(1500, seed=2, genes=200, cells=40)
    learner = NetworkLearner(
        get_family("mlp"), override(get_family("mlp").presets["small"], ["epochs=30"]), placement
    )
    validation = Validation(folds=3, seed=7)
    true = cross_validate(dataset, learner, validation, Run(tmp_path / "true"))["overall"]
    shuffled = dataclasses.replace(validation, shuffle_labels=True)
    control = cross_validate(dataset, learner, shuffled, Run(tmp_path / "shuffled"))["overall"]
    assert true["macro_auroc"] > 0.75
    assert true["log_loss_treated"] < true["prior_log_loss_treated"]
    assert abs(control["macro_auroc"] - 0.5) < 0.05
    # Training stops about where it started from, the column means; how far from them is noise.
    assert control["log_loss_treated"] > 0.998 * control["prior_log_loss_treated"]
    assert true["log_loss_treated"] < 0.95 * true["prior_log_loss_treated"]
