"""MoAClassifier among scikit-learn's own tools, and beside the command line's folds."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, PredefinedSplit, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import moa_tf
from moa_tf import MoAClassifier
from moa_tf.data.folds import assign_folds
from moa_tf.data.read import read_dataset
from moa_tf.errors import InputError
from moa_tf.evaluation.metrics import mean_log_loss
from moa_tf.models.base import FAMILIES

# Rows of two features that are scaled within each row hold nothing.
LINEAR = MoAClassifier("linear", settings={"row_standardise": False})
MLP = MoAClassifier(
    epochs=20,
    batch_size=16,
    settings={
        "row_standardise": False, "hidden": (16,), "decays": (), "early_stopping": 0, "dropout": 0, "output_dropout": 0,
        "learning_rate": 0.02,
    },
)  # fmt: skip


@parametrize_with_checks([LINEAR])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


FLOATS = {
    "check_methods_subset_invariance": "asks for 1e-7: products of float32 matrices are summed in another order for "
    "other batch sizes",
}
"""What no float32 network can pass."""


@pytest.mark.slow
@parametrize_with_checks([MLP], expected_failed_checks=lambda estimator: FLOATS)
def test_scikit_learns_checks_of_a_trained_network(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def tables(data):
    """X, Y and drugs as a user has them: DataFrames by sig_id."""
    features = pd.read_csv(data / "train_features.csv").set_index("sig_id")
    targets = pd.read_csv(data / "train_targets_scored.csv").set_index("sig_id")
    drugs = pd.read_csv(data / "train_drug.csv").set_index("sig_id")["drug_id"]
    return features, targets, drugs


@pytest.fixture(scope="module")
def fitted(tables):
    features, targets, drugs = tables
    return MoAClassifier("linear").fit(features, targets, groups=drugs)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        # Decay and stop are chosen on an inner fold.
        pytest.param("mlp", {"hidden": (16,), "decays": (1e-3, 1e-2)}, marks=pytest.mark.slow),
        ("linear", {}),
    ],
)
def test_its_folds_are_the_command_lines(data, tables, model, settings, tmp_path):
    """Same folds, same seeds: the same predictions of the rows held out, and the same log loss."""
    features, targets, drugs = tables
    epochs = None if model == "linear" else 3
    run = moa_tf.train(
        data, model=model, settings=settings, epochs=epochs, folds=2, seed=5, out=tmp_path / "run"
    )
    theirs = run.out_of_fold()

    dataset = read_dataset(data)
    folds = assign_folds(
        dataset.targets, dataset.drug_id, "drug", 2, seed=5, control=dataset.signatures.control
    )
    split = PredefinedSplit(folds)
    estimator = MoAClassifier(model, settings=settings, epochs=epochs, random_state=5)
    predicted = pd.DataFrame(index=targets.index, columns=targets.columns, dtype=float)
    for number, (train, test) in enumerate(split.split()):
        fold = clone(estimator).set_params(fold=number)
        fold.fit(features.iloc[train], targets.iloc[train], groups=drugs.iloc[train])
        predicted.iloc[test] = fold.predict_proba(features.iloc[test])
    assert (theirs.loc[targets.index, "fold"].to_numpy() == folds).all()
    np.testing.assert_allclose(predicted, theirs.loc[targets.index, targets.columns], atol=2e-5)
    treated = ~dataset.signatures.control
    loss = mean_log_loss(dataset.targets[treated], predicted.to_numpy()[treated])
    assert loss == pytest.approx(run.metrics["overall"]["log_loss_treated"], abs=1e-5)
    if model == "linear":  # By scikit-learn's own loop; all clones take fold 0's streams there.
        scores = cross_val_score(
            estimator, features, targets, cv=split, params={"groups": drugs}, scoring=moa_tf.neg_log_loss
        )
        metrics = run.metrics["folds"]
        assert -scores[0] == pytest.approx(metrics[0]["log_loss_treated"], abs=1e-5)
        assert -scores[1] == pytest.approx(metrics[1]["log_loss_treated"], rel=0.02)


def test_drugs_reach_splitter_and_inner_fold(tables):
    features, targets, drugs = tables
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = MoAClassifier("linear").set_fit_request(groups=True)
        predicted = cross_val_predict(
            estimator, features, targets, cv=GroupKFold(2), params={"groups": drugs}, method="predict_proba"
        )
    (train, test), _ = GroupKFold(2).split(features, groups=drugs)
    one = MoAClassifier("linear").fit(features.iloc[train], targets.iloc[train], groups=drugs.iloc[train])
    np.testing.assert_allclose(predicted[test], one.predict_proba(features.iloc[test]), atol=1e-6)
    # Whether drugs are known decides what is chosen on, and so what comes out.
    other = MoAClassifier("linear").fit(features.iloc[train], targets.iloc[train])
    assert one.history_[0]["chosen"] != other.history_[0]["chosen"]


def test_frames_in_and_out(fitted, tables):
    features, targets, _ = tables
    few = features.sample(20, random_state=0)
    probabilities = fitted.predict_proba(few)
    assert list(probabilities.columns) == list(targets.columns) == list(fitted.classes_)
    assert probabilities.index.equals(few.index)
    assert (probabilities[few["cp_type"] == "ctl_vehicle"] == 0).all(axis=None)
    logits = fitted.decision_function(few)
    treated = few["cp_type"] == "trt_cp"
    np.testing.assert_allclose(1 / (1 + np.exp(-logits[treated])), probabilities[treated], atol=2e-7)
    pd.testing.assert_frame_equal(fitted.predict(few), (probabilities > 0.5).astype(int))
    assert fitted.n_features_in_ == features.shape[1]
    assert list(fitted.feature_names_in_) == list(features.columns)
    assert (len(fitted.spec_.genes), len(fitted.spec_.cells)) == (772, 100)
    # By name: other order, further columns; a row may come twice.
    other = pd.concat([few, few.head(2)])[features.columns[::-1]].copy().assign(sig_id="x")
    np.testing.assert_array_equal(fitted.predict_proba(other).to_numpy()[:20], probabilities.to_numpy())
    with pytest.raises(InputError, match="DataFrame: column g-5 is missing"):
        fitted.predict_proba(few.drop(columns="g-5"))
    with pytest.raises(InputError, match="expected a DataFrame, whose columns are found by name"):
        fitted.predict_proba(np.zeros((2, features.shape[1])))


def test_copies_predict_the_same_and_hold_no_keras_object(fitted, tables):
    few = tables[0].head(5)
    expected = fitted.predict_proba(few)
    for other in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        assert "_loaded" not in other.__dict__
        pd.testing.assert_frame_equal(other.predict_proba(few), expected)
    assert isinstance(fitted.__getstate__()["_preprocessing"], bytes)


def test_an_array_in_a_pipeline(tables):
    features, targets, _ = tables
    X = features.filter(like="g-").to_numpy()[:, :40]
    pipeline = make_pipeline(StandardScaler(), MoAClassifier("linear", seeds=2))
    probabilities = pipeline.fit(X, targets.to_numpy()).predict_proba(X)
    assert isinstance(probabilities, np.ndarray)
    assert len(pipeline[-1].history_) == 2
    prior = np.broadcast_to(targets.to_numpy().mean(axis=0), targets.shape)
    assert mean_log_loss(targets.to_numpy(), probabilities) < mean_log_loss(targets.to_numpy(), prior)
    assert moa_tf.neg_log_loss(pipeline, X, targets) == pytest.approx(
        -mean_log_loss(targets.to_numpy(), probabilities)
    )


def test_gaps_are_taken_where_they_are_asked_for():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(80, 6)), rng.integers(0, 2, (80, 2))
    X[::7, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        LINEAR.fit(X, Y)
    proba = clone(LINEAR).set_params(missing="median").fit(X, Y).predict_proba(X)
    assert np.isfinite(proba).all()


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted({*FAMILIES} - {"linear", "mlp", "deepinsight", "lstm"}))
def test_every_family_is_one(model, tables):
    features, targets, drugs = tables
    settings = [] if model == "connectivity" else ["steps=0", "decays=", "early_stopping=0"]
    epochs = None if model == "connectivity" else 1
    estimator = MoAClassifier(model, epochs=epochs, settings=settings)
    rows = slice(0, 200)
    probabilities = estimator.fit(features[rows], targets[rows], drugs[rows]).predict_proba(features[200:220])
    assert ((probabilities >= 0) & (probabilities <= 1)).all(axis=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "svm"}, "expected one of mlp"),
        ({"preset": "huge"}, "preset=huge: expected one of"),
        ({"missing": "mean"}, "missing=mean: expected refuse or median"),
        ({"seeds": 0}, "seeds=0: expected at least 1"),
        ({"settings": {"depth": 3}}, "key=value"),
    ],
)
def test_wrong_settings_are_found_in_fit(changes, message):
    with pytest.raises(InputError, match=message):
        clone(LINEAR).set_params(**changes).fit(np.eye(4), np.eye(4)[:, :2])


def test_wrong_targets_are_found_in_fit():
    X = np.random.default_rng(0).normal(size=(6, 3))
    with pytest.raises(InputError, match="expected 0 and 1 in each column"):
        LINEAR.fit(X, np.array([[0, 2], [1, 0], [2, 1]] * 2))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LINEAR.fit(X, np.eye(6)[:, :2], groups=["a"])
