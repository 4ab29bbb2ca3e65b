"""Tables on disk: the same run as in memory, bit for bit."""

import keras
import numpy as np
import pytest

import moa_tf.training.fold as fold_module
from moa_tf.data.read import read_dataset
from moa_tf.data.simulate import simulate, write_simulation
from moa_tf.data.storage import Disk
from moa_tf.models.base import get_family
from moa_tf.training.cross_validation import Validation, cross_validate, with_shuffled_labels
from moa_tf.training.fold import adapting_rows, make_fold
from moa_tf.training.network_learner import NetworkLearner
from moa_tf.training.run import Run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_simulation(tmp_path_factory.mktemp("data") / "sample", 200, seed=3)


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
        run = Run(tmp_path / name)
        dataset = read_dataset(data, storage=storage)
        metrics = cross_validate(dataset, learner, Validation(folds=2, seed=7), run, reporter=messages)
        models = sorted(run.directory.rglob("*.keras"))
        loaded = [keras.saving.load_model(path, compile=False) for path in models]
        weights = [weight.tolist() for model in loaded for weight in model.get_weights()]
        predictions = [np.load(path) for path in sorted(run.directory.rglob("predictions.npy"))]
        files = [(run.directory / file).read_bytes() for file in ("oof.parquet", "ranking.json")]
        metrics.pop("cost"), metrics.pop("models")  # of the files' checksums, and Keras's files hold the time
        found[name] = [weights, metrics, files, [values.tolist() for values in predictions]]
    assert found["disk"] == found["memory"]
    assert any("preprocessing is fitted on 60 of the" in line for line in messages.lines)
    assert list(scratch.iterdir()) == []


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
