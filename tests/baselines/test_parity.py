"""Each baseline is its library, called with these settings on the fold's features."""

import catboost
import lightgbm
import numpy as np
import pytest
import xgboost
from scipy.special import expit, logit
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor

from moa_tf.training.cross_validation import Validation, make_folds
from moa_tf.training.reporter import Reporter

SEED = 11


@pytest.fixture(scope="module")
def fold(dataset):
    return make_folds(dataset, Validation(folds=3, seed=1), False)[1]


@pytest.fixture
def fitted(dataset, quick, fold, tmp_path):
    """Name -> predictions [V, 4] of the targets that can be fitted, and what was chosen; x, y of the fold, new x."""

    def fit(name):
        learner = quick(name)
        features, _ = learner.prepare(dataset, fold, 0, tmp_path, True, Reporter())
        predicted, history = learner.fit(dataset, features, fold, SEED, tmp_path, "", Reporter())
        y = dataset.targets[fold.train, :4]
        return predicted[:, :4], history["chosen"], features[fold.train], y, features[fold.held_out]

    return fit


def assert_same(predicted, expected, tolerance=1e-6):
    assert expected.std() > 0.05
    np.testing.assert_allclose(predicted, np.clip(expected, 1e-5, 1 - 1e-5), atol=tolerance)


def test_ridge(fitted):
    predicted, chosen, x, y, new = fitted("ridge")
    expected = Ridge(alpha=chosen["strength"]).fit(x.astype(float), y).predict(new)
    floor = chosen["floor"] * y.mean(0)
    assert (expected < floor).any()
    assert_same(predicted, np.maximum(expected, floor))


def test_logistic_regression(fitted):
    predicted, chosen, x, y, new = fitted("logistic-regression")
    models = [
        LogisticRegression(C=chosen["strength"], tol=1e-8).fit(x.astype(float), labels) for labels in y.T
    ]
    assert_same(predicted, np.column_stack([model.predict_proba(new)[:, 1] for model in models]), 1e-3)


def test_knn(fitted):
    predicted, chosen, x, y, new = fitted("knn")
    k, smoothing = chosen["k"], chosen["smoothing"]
    share = KNeighborsRegressor(k, metric="cosine", algorithm="brute").fit(x, y).predict(new)
    assert_same(predicted, (k * share + smoothing * y.mean(0)) / (k + smoothing))


def test_random_forest(fitted):
    """A classification by Gini's impurity grows the same trees, but where two splits are equally good."""
    predicted, chosen, x, y, new = fitted("random-forest")
    forest = RandomForestClassifier(
        20, min_samples_leaf=2, max_leaf_nodes=512, max_features="sqrt", random_state=SEED
    ).fit(x, y)
    share = np.column_stack([one[:, 1] for one in forest.predict_proba(new)])
    expected = (1 - chosen["mixing"]) * share + chosen["mixing"] * y.mean(0)
    assert np.median(np.abs(predicted - expected)) < 1e-6
    assert np.abs(predicted - expected).mean() < 0.01


def test_lightgbm(fitted):
    predicted, chosen, x, y, new = fitted("lightgbm")
    columns = []
    for labels in y.T:
        model = lightgbm.LGBMClassifier(
            n_estimators=chosen["rounds"], learning_rate=0.1, max_depth=3, num_leaves=8, min_child_weight=0.05,
            min_child_samples=1, reg_lambda=1.0, subsample=0.8, subsample_freq=1, colsample_bytree=0.8,
            max_bin=32, random_state=SEED, n_jobs=1, verbosity=-1, force_col_wise=True,
        )  # fmt: skip
        columns.append(model.fit(x, labels).predict_proba(new)[:, 1])
    assert_same(predicted, np.column_stack(columns))


def booster(settings, rounds, **arrays):
    both = {"objective": "binary:logistic", "tree_method": "hist", "max_depth": 3, "min_child_weight": 0.05,
            "lambda": 1.0, "subsample": 0.8, "colsample_bytree": 0.8, "seed": SEED, "nthread": 1}  # fmt: skip
    rows = xgboost.QuantileDMatrix(max_bin=settings["max_bin"], **arrays)
    return xgboost.train({**both, **settings}, rows, rounds)


def test_xgboost(fitted):
    predicted, chosen, x, y, new = fitted("xgboost")
    columns = []
    for labels in y.T:
        settings = {"eta": 0.1, "max_bin": 32, "base_score": labels.mean()}
        model = booster(settings, chosen["rounds"], data=x, label=labels)
        columns.append(model.predict(xgboost.DMatrix(new)))
    assert_same(predicted, np.column_stack(columns))


def test_xgboost_multi(fitted):
    predicted, chosen, x, y, new = fitted("xgboost-multi")
    settings = {"eta": 0.3, "max_bin": 16, "base_score": 0.5, "multi_strategy": "multi_output_tree"}
    start = logit(y.mean(0))
    model = booster(settings, chosen["rounds"], data=x, label=y, base_margin=np.tile(start, (len(x), 1)))
    margin = model.predict(xgboost.DMatrix(new, base_margin=np.zeros((len(new), 4))), output_margin=True)
    # Added by hand, so that a start that were counted twice, or for the wrong target, would show.
    assert_same(predicted, expit(margin + start), 1e-5)
    assert all(tree.count("leaf") > 0 for tree in model.get_dump())
    assert model.num_boosted_rounds() == chosen["rounds"]


def test_catboost(fitted):
    predicted, chosen, x, y, new = fitted("catboost")
    model = catboost.CatBoostClassifier(
        loss_function="MultiLogloss", iterations=chosen["rounds"], learning_rate=0.1, depth=3, l2_leaf_reg=3.0,
        bootstrap_type="Bernoulli", subsample=0.8, rsm=0.8, border_count=16, random_seed=SEED,
        allow_writing_files=False, silent=True,
    )  # fmt: skip
    assert_same(predicted, model.fit(x, y).predict_proba(new))
