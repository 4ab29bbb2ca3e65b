import dataclasses

import keras
import numpy as np
import pytest

from moa_tf.config import override
from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.errors import InputError
from moa_tf.models.base import Member, Task, get_family
from moa_tf.models.integrated_gradients import fit_baseline
from moa_tf.models.linear import FAMILY, PRESETS, LinearConfig, LogisticRegressions, predict

ROWS, FEATURES, TARGETS = 120, 20, 5
PRIOR = np.full(TARGETS, 0.2)


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    x = rng.normal(1, 1, (ROWS, FEATURES)) * np.linspace(0.1, 3, FEATURES)
    logits = 0.5 * (x - x.mean(0)) @ rng.normal(size=(FEATURES, TARGETS)) - [1, 2, 3, 1, 1]
    y = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    y[:, 3], y[:, 4] = 0, 1
    return x, y


def network(features=FEATURES, targets=TARGETS):
    inputs = {"features": keras.Input((features,), name="features")}
    return FAMILY.build(keras.Model(inputs, inputs), LinearConfig(), PRIOR[:targets], 0)


def task(x, y, inner):
    rows = np.arange(len(x))
    return Task({"features": np.float32(x)}, y, rows.astype(str), np.ones(len(x), bool), inner)


@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-4), ("float32", 3e-4)])
@pytest.mark.parametrize("wide", [False, True])
def test_probabilities_equal_scikit_learn_at_every_strength_of_a_path(table, wide, dtype, atol):
    from sklearn.linear_model import LogisticRegression

    x, y = table
    if wide:  # more features than rows
        x = np.concatenate([x, np.random.default_rng(1).normal(size=(ROWS, 150))], axis=1)
    ours = LogisticRegressions(x, y, PRIOR, dtype)
    for strength in (1e-3, 0.1, 10):
        found = predict(ours.solve(strength), x)
        for target in range(3):
            peer = LogisticRegression(C=strength, tol=1e-10, max_iter=10000).fit(x, y[:, target])
            np.testing.assert_allclose(found[:, target], peer.predict_proba(x)[:, 1], atol=atol)


def test_a_target_that_is_never_or_always_positive_keeps_its_prior(table):
    x, y = table
    found = LogisticRegressions(x, y, np.array([0.5, 0.5, 0.5, 1e-5, 1 - 1e-5])).solve(1.0)
    assert not found.kernel[:, 3:].any()
    np.testing.assert_allclose(found.bias[3:], [-11.512915, 11.512915], rtol=1e-6)


def test_the_strength_is_the_best_of_the_inner_folds_and_the_fit_that_of_all_rows(table):
    x, y = table
    x = np.float32(x).astype(float)
    halves = [(np.arange(0, ROWS, 2), np.arange(1, ROWS, 2)), (np.arange(1, ROWS, 2), np.arange(0, ROWS, 2))]
    model = network()
    config = dataclasses.replace(LinearConfig(), strengths=(10.0, 1e-3, 0.1))
    chosen = FAMILY.solve(model, task(x, y, halves), config)
    losses = {}
    for strength in config.strengths:
        p = np.empty(y.shape)
        for rows, judged in halves:
            p[judged] = predict(
                LogisticRegressions(x[rows], y[rows], y[rows].mean(0)).solve(strength), x[judged]
            )
        p = np.clip(p, 1e-5, 1 - 1e-5)
        losses[strength] = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert chosen["strength"] == min(losses, key=losses.get) == 0.1
    assert chosen["inner_log_loss"] == pytest.approx(losses[0.1], rel=1e-3)
    expected = predict(LogisticRegressions(x, y, y.mean(0)).solve(0.1), x)
    np.testing.assert_allclose(keras.ops.sigmoid(model({"features": np.float32(x)})), expected, atol=1e-4)


def test_nothing_to_choose_by_takes_the_strongest_regularisation(table):
    assert FAMILY.solve(network(), task(*table, []), LinearConfig()) == {
        "strength": 1e-4,
        "inner_log_loss": None,
    }


def test_explanation_is_coefficient_times_distance_from_the_baseline():
    spec = SignatureSpec(("g-0", "g-1"), (), ())
    ids = np.array(["a", "b", "c"], object)
    # Medians 1 and 0; variances 32/9 and 6.
    train = Signatures(spec, ids, np.float32([[1, 3], [5, 0], [1, -3]]), None)
    config = LinearConfig(clip=0.0, row_standardise=False)
    preprocessing = FAMILY.fit_preprocessing(train, config, 0)
    model = FAMILY.build(preprocessing, config, np.array([0.5, 0.01]), 0)
    model.get_layer("logits").kernel.assign(np.float32([[2, 0], [-1, 0]]))
    explain = FAMILY.explain([Member(preprocessing, [model], fit_baseline(train))])
    outputs = explain({"genes": keras.ops.convert_to_tensor(np.float32([[3, 2]]))})
    expected = [2 * (3 - 1) / (32 / 9) ** 0.5, -1 * (2 - 0) / 6**0.5]
    np.testing.assert_allclose(outputs["attribution"], [expected], rtol=1e-5)
    assert np.asarray(outputs["target"]) == [0]


def test_presets_and_settings():
    assert get_family("linear") is FAMILY
    assert [FAMILY.choose_preset(rows) for rows in (741, 23814)] == ["small", "full"]
    assert override(PRESETS["small"], ["strengths=0.5,2"]).architecture.strengths == (0.5, 2.0)
    with pytest.raises(InputError, match=r"strengths=.*: expected one or more, all above 0"):
        override(PRESETS["small"], ["strengths=0"])
