"""Tables on disk: the same run as in memory, bit for bit."""

import weakref

import keras
import ml_dtypes
import numpy as np
import pytest

import moa_tf.training.cross_validation as cross_validation
import moa_tf.training.fold as fold_module
import moa_tf.training.network_learner as network_learner
from moa_tf.data.read import read_dataset
from moa_tf.data.simulate import simulate, write_simulation
from moa_tf.data.storage import Disk
from moa_tf.errors import InputError
from moa_tf.models.base import get_family
from moa_tf.training.cross_validation import Validation, cross_validate, with_shuffled_labels
from moa_tf.training.fold import adapting_rows, make_fold
from moa_tf.training.inference import Inference
from moa_tf.training.network_learner import NetworkLearner
from moa_tf.training.run import Run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_simulation(tmp_path_factory.mktemp("data") / "sample", 200, seed=3)


def results(dataset, learner, directory, reporter):
    """Everything that a run gives, to the last bit."""
    run = Run(directory)
    metrics = cross_validate(dataset, learner, Validation(folds=2, seed=7), run, reporter=reporter)
    models = sorted(run.directory.rglob("*.keras"))
    loaded = [keras.saving.load_model(path, compile=False) for path in models]
    weights = [weight.tolist() for model in loaded for weight in model.get_weights()]
    predictions = [np.load(path) for path in sorted(run.directory.rglob("predictions.npy"))]
    files = [(run.directory / file).read_bytes() for file in ("oof.parquet", "ranking.json")]
    metrics.pop("cost"), metrics.pop("models")  # of the files' checksums, and Keras's files hold the time
    return [weights, metrics, files, [values.tolist() for values in predictions]]


@pytest.mark.parametrize("pretrain", ["", pytest.param("nonscored", marks=pytest.mark.slow)])
def test_a_run_from_disk_is_that_from_memory(
    data, hyperparameters, placement, messages, tmp_path, monkeypatch, pretrain
):
    monkeypatch.setattr(fold_module, "ADAPTING", 60)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = {}
    for name, storage in (("memory", None), ("disk", Disk(scratch))):
        learner = NetworkLearner(get_family("mlp"), hyperparameters, placement, "small", pretrain=pretrain)
        found[name] = results(read_dataset(data, storage=storage), learner, tmp_path / name, messages)
    assert found["disk"] == found["memory"]
    assert any("preprocessing is fitted on 60 of the" in line for line in messages.lines)
    assert list(scratch.iterdir()) == []


def test_features_on_disk_are_gone_before_the_figures(data, learner, tmp_path, monkeypatch):
    made, alive = [], []

    def features(preprocessing, dataset):
        found = compute(preprocessing, dataset)
        made.extend(weakref.ref(values) for values in found.values())
        return found

    def score(*arguments):
        alive.extend(reference() is not None for reference in made)
        return {}

    compute = network_learner._features
    monkeypatch.setattr(network_learner, "_features", features)
    monkeypatch.setattr(cross_validation, "score_members", score)
    dataset = read_dataset(data, storage=Disk(tmp_path))
    cross_validate(dataset, learner, Validation(folds=2), Run(tmp_path / "run"))
    assert alive
    assert not any(alive)


def test_features_in_bfloat16_are_rounded_and_nothing_else(data, learner, messages, tmp_path, monkeypatch):
    half = read_dataset(data, storage=Disk(tmp_path, bfloat16=True))
    found = results(half, learner, tmp_path / "half", messages)
    full = read_dataset(data)
    with pytest.raises(InputError, match=r"data\.features was bfloat16, now float32; cannot resume"):
        cross_validate(full, learner, Validation(folds=2, seed=7), Run(tmp_path / "half"), resume=True)

    def rounded(preprocessing, dataset):
        computed = Inference(preprocessing)(dataset.signatures.inputs())
        return {
            name: values.astype(ml_dtypes.bfloat16).astype("float32") for name, values in computed.items()
        }

    monkeypatch.setattr(network_learner, "_features", rounded)
    assert found == results(full, learner, tmp_path / "rounded", messages)


def test_shuffled_labels_are_those_from_memory(data, tmp_path):
    kept, mapped = read_dataset(data), read_dataset(data, storage=Disk(tmp_path))
    for name in ("targets", "nonscored"):
        expected = getattr(with_shuffled_labels(kept, 4), name)
        np.testing.assert_array_equal(getattr(with_shuffled_labels(mapped, 4), name), expected)
        assert not np.array_equal(expected, getattr(kept, name))


def test_what_copies_its_rows_says_so_on_disk_alone(data, ridge, messages, tmp_path):
    ridge.copies = True
    for name, storage in (("memory", None), ("disk", Disk(tmp_path))):
        dataset = read_dataset(data, storage=storage)
        cross_validate(
            dataset, ridge, Validation(folds=2), Run(tmp_path / name), only_fold=0, reporter=messages
        )
        said = [line for line in messages.lines if line.startswith("ridge: is fitted on copies")]
        assert len(said) == (name == "disk")


def test_preprocessing_is_fitted_on_some_of_many_rows(monkeypatch):
    dataset = simulate(200, genes=5, cells=0)
    fold = make_fold(0, dataset, np.arange(200) < 40, False)
    np.testing.assert_array_equal(adapting_rows(fold, 1), fold.train)
    monkeypatch.setattr(fold_module, "ADAPTING", 50)
    some = adapting_rows(fold, 1)
    assert len(some) == len(set(some)) == 50
    assert set(some) < set(fold.train)
    np.testing.assert_array_equal(some, np.sort(some))
    np.testing.assert_array_equal(some, adapting_rows(fold, 1))
    assert not np.array_equal(some, adapting_rows(fold, 2))
