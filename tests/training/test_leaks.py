"""Nothing of the rows that are held out reaches a model: neither features nor labels, by whatever way."""

import dataclasses

import keras
import numpy as np
import pytest

from moa_tf.config import override
from moa_tf.data.simulate import simulate
from moa_tf.models.base import FAMILIES, get_family
from moa_tf.training.cross_validation import Validation, make_folds
from moa_tf.training.fold import make_fold
from moa_tf.training.network_learner import NetworkLearner
from moa_tf.training.reporter import Reporter

# Quick settings of every family that touch as much of what is fitted as one training can.
SETTINGS = {
    "mlp": ["hidden=8", "gene_components=3", "cell_components=2", "positive_weights=log", "batch_size=32"],
    "linear": ["gene_components=3", "row_statistics=true", "strengths=0.01,0.1"],
    "connectivity": ["temperatures=0.05,0.2", "mixing=0.1,0.5"],
    "tabm": ["hidden=8,8", "k=4", "keep=2", "batch_size=32"],
    "resnet": ["selected=10", "wide=8", "narrow=4", "gene_components=3", "batch_size=64"],
    "cnn1d": ["hidden=16", "channels=4", "filters=4", "batch_size=64"],
    "gru": ["step_size=10", "units=4", "embedding=4", "gene_components=3", "batch_size=64"],
    "lstm": ["step_size=10", "units=4", "embedding=4", "batch_size=64"],
    "tabnet": ["virtual_batch_size=16", "embed_treatment=true", "early_stopping=0", "pretrain_epochs=1",
               "batch_size=64", "schedule=one-cycle"],
    "deepinsight": ["image_size=32", "batch_size=64"],
}  # fmt: skip


@pytest.fixture(scope="module")
def data():
    """Signatures, which of them are held out, and the same with everything about those rows replaced."""
    dataset = simulate(300, seed=2, genes=30, cells=8)
    held_out = np.zeros(len(dataset), bool)
    held_out[make_folds(dataset, Validation(folds=3, seed=7), False)[1].held_out] = True
    rng = np.random.default_rng(0)

    def poison(values, low, high):
        values = values.copy()
        values[held_out] = rng.uniform(low, high, values[held_out].shape).astype(values.dtype)
        return values

    signatures = dataset.signatures
    poisoned = dataclasses.replace(
        dataset,
        signatures=dataclasses.replace(
            signatures,
            genes=poison(signatures.genes, 50, 90),
            cells=poison(signatures.cells, -90, -50),
            cp_time=poison(signatures.cp_time, 100, 200),
            cp_dose=np.where(held_out, 1 - signatures.cp_dose, signatures.cp_dose),
        ),
        targets=np.where(held_out[:, None], 1 - dataset.targets, dataset.targets),
        nonscored=np.where(held_out[:, None], 1 - dataset.nonscored, dataset.nonscored),
    )
    return dataset, held_out, poisoned


def fit(learner, dataset, held_out, directory):
    fold = make_fold(1, dataset, held_out, learner.train_on_controls)
    prepared, _ = learner.prepare(dataset, fold, 3, directory, False, Reporter())
    learner.fit(dataset, prepared, fold, 5, directory / "member", "", Reporter())


def assert_same_models(first, second):
    for name in ("preprocessing.keras", "member/network.keras"):
        models = [keras.saving.load_model(directory / name, compile=False) for directory in (first, second)]
        assert len(models[0].weights) == len(models[1].weights) > 0
        for a, b in zip(models[0].weights, models[1].weights, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("mlp", "linear"))) for name in FAMILIES],
)
def test_held_out_features_and_labels_change_no_weight(name, data, placement, tmp_path):
    dataset, held_out, poisoned = data
    family = get_family(name)
    learner = NetworkLearner(
        family,
        override(family.presets["small"], ["epochs=2", *SETTINGS[name]]),
        placement,
        pretrain="features" if family.reconstruction is not None else "",
        unlabelled=simulate(100, seed=9, genes=30, cells=8).signatures,
    )
    fit(learner, dataset, held_out, tmp_path / "clean")
    fit(learner, poisoned, held_out, tmp_path / "poisoned")
    assert_same_models(tmp_path / "clean", tmp_path / "poisoned")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("mlp", {"pretrain": "nonscored"}, marks=pytest.mark.slow),
        pytest.param("mlp", {"stack": "nonscored"}, marks=pytest.mark.slow),
        ("linear", {"stack": "nonscored"}),
    ],
)
def test_nor_do_held_out_nonscored_labels(name, options, data, placement, tmp_path):
    dataset, held_out, poisoned = data
    family = get_family(name)
    settings = override(
        family.presets["small"], ["epochs=1", "decays=1e-3", "inner_folds=2", *SETTINGS[name]]
    )
    learner = NetworkLearner(family, settings, placement, **options)
    fit(learner, dataset, held_out, tmp_path / "clean")
    fit(learner, poisoned, held_out, tmp_path / "poisoned")
    assert_same_models(tmp_path / "clean", tmp_path / "poisoned")


def test_a_learner_that_is_no_keras_model(ridge, data, tmp_path):
    dataset, held_out, poisoned = data
    fit(ridge, dataset, held_out, tmp_path / "clean")
    fit(ridge, poisoned, held_out, tmp_path / "poisoned")
    for name in ("scaling.npz", "member/weights.npy"):
        assert (tmp_path / "clean" / name).read_bytes() == (tmp_path / "poisoned" / name).read_bytes()


@pytest.mark.parametrize("train_on_controls", [False, True])
def test_controls_are_trained_on_only_if_the_recipe_says_so(train_on_controls, data, placement, tmp_path):
    dataset, _, _ = data
    control = dataset.signatures.control
    genes = np.where(control[:, None], dataset.signatures.genes + 7, dataset.signatures.genes)
    shifted = dataclasses.replace(dataset, signatures=dataclasses.replace(dataset.signatures, genes=genes))
    # Controls of the training rows, that is, with no control held out.
    held_out = (np.arange(len(dataset)) < 80) & ~control
    own = ["epochs=1", f"train_on_controls={str(train_on_controls).lower()}", *SETTINGS["mlp"]]
    learner = NetworkLearner(get_family("mlp"), override(get_family("mlp").presets["small"], own), placement)
    fit(learner, dataset, held_out, tmp_path / "a")
    fit(learner, shifted, held_out, tmp_path / "b")
    if not train_on_controls:
        assert_same_models(tmp_path / "a", tmp_path / "b")
    else:
        with pytest.raises(AssertionError):
            assert_same_models(tmp_path / "a", tmp_path / "b")
