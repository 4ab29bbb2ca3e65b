"""Learning from the nonscored targets first: as a start, and as features."""

import dataclasses

import keras
import numpy as np
import pytest

from moa_tf.config import override
from moa_tf.data.simulate import simulate
from moa_tf.errors import InputError
from moa_tf.models.base import get_family
from moa_tf.training.choice import Choice
from moa_tf.training.cross_validation import Validation, cross_validate, make_folds, with_shuffled_labels
from moa_tf.training.fold import make_fold
from moa_tf.training.follow import Course
from moa_tf.training.inference import Inference
from moa_tf.training.members import load_members
from moa_tf.training.network import NetworkData
from moa_tf.training.network_learner import NetworkLearner
from moa_tf.training.nonscored import FirstStage, as_task, copy_body, join_stage
from moa_tf.training.run import Run

SMALL = ["hidden=8", "epochs=2", "batch_size=64", "decays=", "early_stopping=0", "optimizer=adam"]


@pytest.fixture(scope="module")
def dataset():
    return simulate(300, seed=4, genes=30, cells=8)


@pytest.fixture(scope="module")
def fold(dataset):
    held_out = np.isin(dataset.drug_id, np.unique(dataset.drug_id)[::4])
    return make_fold(0, dataset, held_out, False)


def learner(placement, name="mlp", settings=SMALL, **options):
    family = get_family(name)
    return NetworkLearner(family, override(family.presets["small"], settings), placement, **options)


def test_the_task_is_of_targets_with_a_positive_in_the_treated_training_rows(dataset, fold):
    # One target of the three has its positives among the held-out rows alone.
    elsewhere = np.zeros((len(dataset), 1), np.float32)
    elsewhere[fold.judged] = 1
    dataset = dataclasses.replace(dataset, nonscored=np.hstack([elsewhere, dataset.nonscored]))
    task, own = as_task(dataset, fold)
    treated = fold.train[~dataset.signatures.control[fold.train]]
    found = dataset.nonscored[treated].any(axis=0)
    assert 0 < found.sum() < dataset.nonscored.shape[1]
    np.testing.assert_array_equal(task.targets, dataset.nonscored[:, found])
    np.testing.assert_allclose(own.prior, dataset.nonscored[treated][:, found].mean(0), rtol=1e-6)
    # As many as the scored ones: a head could not be told from another.
    same = dataclasses.replace(dataset, targets=dataset.targets[:, : int(found.sum())])
    assert as_task(same, fold)[0].targets.shape[1] == found.sum() + 1


def test_without_such_labels_it_says_so(dataset, fold):
    with pytest.raises(InputError, match="has no train_targets_nonscored"):
        as_task(dataclasses.replace(dataset, nonscored=None), fold)
    with pytest.raises(InputError, match=r"none of the \d+ targets has a positive in the"):
        as_task(dataclasses.replace(dataset, nonscored=np.zeros_like(dataset.nonscored)), fold)


def test_a_body_is_copied_and_its_head_is_not():
    def network(targets, bias):
        x = keras.Input((3,), name="features")
        h = keras.layers.Dense(4, bias_initializer=keras.initializers.Constant(bias), name="body")(x)
        return keras.Model({"features": x}, keras.layers.Dense(targets, name="logits")(h))

    source, target = network(5, 1.0), network(2, 0.0)
    head = target.get_layer("logits").get_weights()
    copy_body(source, target)
    bodies = [model.get_layer("body").get_weights() for model in (source, target)]
    for a, b in zip(*bodies, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(target.get_layer("logits").get_weights()[0], head[0])
    x = keras.Input((3,), name="features")
    with pytest.raises(InputError, match="nothing beside its output layer"):
        copy_body(source, keras.Model({"features": x}, keras.layers.Dense(2, name="logits")(x)))


def test_joined_features_by_hand():
    x = keras.Input((2,), name="genes")
    preprocessing = keras.Model({"genes": x}, {"features": 10 * x})

    def network(row):
        features = keras.Input((2,), name="features")
        dense = keras.layers.Dense(1, use_bias=False, name="logits")
        model = keras.Model({"features": features}, dense(features))
        dense.set_weights([np.array(row, "float32")[:, None]])
        return model

    # Out-of-fold logits with mean 3 and standard deviation 2; the last row has none.
    model, own = join_stage(
        preprocessing, [network([1, 0]), network([0, 1])], "features", np.array([[1.0], [5.0], [np.nan]], "f")
    )
    np.testing.assert_allclose(own[:, 0], [-1, 1, np.nan], rtol=1e-5)
    # Networks see 10 x: the mean of 10 a and 10 b, less 3, over 2, no further than 5.
    features = model({"genes": np.array([[0.5, 0.1], [7.0, 7.0]], "float32")})["features"]
    np.testing.assert_allclose(features, [[5, 1, 0], [70, 70, 5]], rtol=1e-5, atol=1e-6)


def test_no_row_is_stacked_on_a_network_that_saw_its_drug(dataset, fold, tmp_path):
    x = keras.Input((30,), name="genes")
    preprocessing = keras.Model({"genes": x}, {"features": 1.0 * x})
    data = NetworkData(preprocessing, {"features": dataset.signatures.genes}, dataset.targets, fold)
    seen = []

    def fit(task, data, choice, checkpoint):
        """Its one logit says how manieth network it is."""
        seen.append(data.fold.train)
        features = keras.Input((30,), name="features")
        units = task.targets.shape[1]
        dense = keras.layers.Dense(units, kernel_initializer="zeros", bias_initializer="ones", name="logits")
        return keras.Model({"features": features}, dense(features) * (float(len(seen)) ** 2))

    def choose(task, data, directory):
        return Choice(0.0, Course())

    _, own = FirstStage(dataset, data, choose, fit, 5, 0, tmp_path / "first").join("features")
    assert len(seen) == 5
    networks = np.unique(own[:, 0])
    assert len(networks) == 5
    drugs = dataset.drug_id[fold.train]
    for rows, value in zip(seen, networks, strict=True):
        predicted = own[:, 0] == value
        assert predicted.any()
        assert not set(drugs[predicted]) & set(dataset.drug_id[rows])
        assert set(rows) <= set(fold.train)


@pytest.mark.parametrize("options", [{"pretrain": "nonscored"}, {"stack": "nonscored"}])
def test_a_run_resumes_and_its_members_are_what_predicted(options, dataset, placement, tmp_path):
    def validate(resume=False):
        return cross_validate(
            dataset,
            learner(placement, **options),
            Validation(folds=3),
            Run(tmp_path / "r"),
            only_fold=0,
            resume=resume,
        )

    metrics = validate()
    assert metrics["overall"]["log_loss_treated"] < 1.1 * metrics["overall"]["prior_log_loss_treated"]
    directory = tmp_path / "r" / "fold-0"
    assert not (directory / "nonscored").exists()
    (member,) = load_members(tmp_path / "r")
    features = Inference(member.preprocessing)(dataset.signatures.inputs())
    logits = Inference(member.networks[0])(features)
    predicted = np.load(directory / "seed-0" / "predictions.npy")
    held_out = make_folds(dataset, Validation(folds=3), False)[0].held_out
    np.testing.assert_allclose(1 / (1 + np.exp(-logits[held_out].astype(np.float64))), predicted, atol=1e-6)
    # A member that is lost is trained again on what the fold's shared files hold, to the same bits.
    (directory / "seed-0" / "network.keras").unlink()
    validate(resume=True)
    np.testing.assert_array_equal(np.load(directory / "seed-0" / "predictions.npy"), predicted)


def test_the_body_of_a_pretrained_network_is_where_training_starts(dataset, fold, placement, tmp_path):
    one = learner(placement, settings=[*SMALL, "learning_rate=1e-12"], pretrain="nonscored")
    from moa_tf.training.reporter import Reporter

    prepared, _ = one.prepare(dataset, fold, 3, tmp_path, False, Reporter())
    one.fit(dataset, prepared, fold, 5, tmp_path / "member", "", Reporter())
    trained = keras.saving.load_model(tmp_path / "member" / "network.keras", compile=False)
    start = keras.saving.load_model(tmp_path / "pretrained.keras", compile=False)
    assert start.output.shape[1] != trained.output.shape[1]
    np.testing.assert_allclose(
        trained.get_layer("dense_1").get_weights()[0], start.get_layer("dense_1").get_weights()[0], atol=1e-8
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("linear", {"pretrain": "nonscored"}, "linear is solved"),
        ("tabnet", {"stack": "nonscored"}, "expected --model mlp, linear, "),
        ("mlp", {"stack": "nonscored", "pretrain": "nonscored"}, "expected no --pretrain with it"),
    ],
)
def test_what_does_not_go_together(name, options, message, dataset, fold, placement):
    with pytest.raises(InputError, match=message):
        learner(placement, name, [], **options).check(dataset, [fold])


def test_both_kinds_of_labels_are_shuffled_as_one(dataset):
    shuffled = with_shuffled_labels(dataset, 3)
    pairs = {tuple(row) for row in np.hstack([dataset.targets, dataset.nonscored])}
    assert {tuple(row) for row in np.hstack([shuffled.targets, shuffled.nonscored])} <= pairs
    assert (shuffled.nonscored != dataset.nonscored).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"pretrain": "nonscored"}),
        ("mlp", {"stack": "nonscored"}),
        ("linear", {"stack": "nonscored"}),
    ],
)
def test_shuffled_labels_stay_at_chance(name, options, placement, tmp_path):
    dataset = simulate(900, seed=1, genes=60, cells=10)
    settings = ["inner_folds=2"]
    settings += {"mlp": ["steps=150", "decays=", "early_stopping=0"], "linear": ["strengths=0.01"]}[name]

    def auroc(seed, shuffle):
        metrics = cross_validate(
            dataset,
            learner(placement, name, settings, **options),
            Validation(folds=2, seed=seed, shuffle_labels=shuffle),
            Run(tmp_path / f"{seed}-{shuffle}"),
        )
        return metrics["overall"]["macro_auroc"]

    assert auroc(0, False) > 0.7
    # One shuffling may be as lucky as a figure's interval is wide.
    assert 0.44 < np.mean([auroc(seed, True) for seed in range(3)]) < 0.56
