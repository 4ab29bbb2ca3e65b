import json
import os
import resource

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from moa_tf.data.folds import assign_folds
from moa_tf.data.read import MARKER, read_dataset, read_features
from moa_tf.data.simulate import simulate, write_simulation
from moa_tf.errors import InputError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_simulation(tmp_path_factory.mktemp("simulated") / "deep" / "sample", 240, seed=5)


def test_written_and_in_memory_are_equal(written):
    read, made = read_dataset(written), simulate(240, seed=5)
    assert read.simulated
    assert made.simulated
    assert read.fingerprint == made.fingerprint
    np.testing.assert_array_equal(read.signatures.genes, made.signatures.genes)
    np.testing.assert_array_equal(read.drug_id, made.drug_id)
    assert read.nonscored_names == made.nonscored_names


def test_layout(written):
    assert json.loads((written / MARKER).read_text())["seed"] == 5
    header = pd.read_csv(written / "train_features.csv", nrows=3)
    assert list(header.columns[:5]) == ["sig_id", "cp_type", "cp_time", "cp_dose", "g-0"]
    assert header.shape[1] == 876
    submission = pd.read_csv(written / "sample_submission.csv")
    test = read_features(written / "test_features.csv")
    assert submission.sig_id.tolist() == test.sig_id.tolist()
    assert tuple(submission.columns[1:]) == read_dataset(written).target_names
    assert len(test) == 48


def test_seeds():
    first, again, other = (simulate(120, seed, genes=10, cells=0).fingerprint for seed in (1, 1, 2))
    assert first == again != other


def test_what_the_rows_are():
    dataset = simulate(1000, genes=30, cells=5)
    signatures = dataset.signatures
    assert len(dataset) == 1000
    assert signatures.control.sum() == 80
    assert dataset.notes["warnings"] == []
    assert set(dataset.drug_id[signatures.control]) == {"vehicle"}
    assert not dataset.targets[signatures.control].any()
    values = np.hstack([signatures.genes, signatures.cells])
    assert np.abs(values).max() <= 10
    np.testing.assert_allclose(values, values.astype(float).round(4), atol=1e-6)
    drugs, rows = np.unique(dataset.drug_id[~signatures.control], return_counts=True)
    assert len(drugs) == 154
    assert set(rows) <= {6, 920 % 6}
    conditions = pd.DataFrame({"d": dataset.drug_id, "t": signatures.cp_time, "z": signatures.cp_dose})
    assert (conditions[~signatures.control].drop_duplicates().groupby("d").size().to_numpy() == rows).all()
    _, first = np.unique(dataset.drug_id, return_index=True)
    assert dataset.targets[first].sum(0).min() >= 4
    assert set(dataset.targets.sum(1)) >= {0, 1, 2}
    assert dataset.targets.mean() < 0.1


def test_genes_correlate_and_treated_cells_die():
    signatures = simulate(1000, genes=50, cells=20).signatures
    correlation = np.corrcoef(signatures.genes, rowvar=False)[np.triu_indices(50, 1)]
    assert np.abs(correlation).mean() > 2 / np.sqrt(1000)
    assert signatures.cells[~signatures.control].mean() < signatures.cells[signatures.control].mean() - 0.2


def test_labels_can_be_learnt_with_drugs_held_out():
    dataset = simulate(1500, seed=3, genes=400, cells=50)
    signatures = dataset.signatures
    fold = assign_folds(dataset.targets, dataset.drug_id, folds=4)
    train, held_out = ((rows & ~signatures.control) for rows in (fold != 0, fold == 0))
    x = np.arcsinh(np.hstack([signatures.genes, signatures.cells]))
    _, _, axes = np.linalg.svd(x[train] - x[train].mean(0), full_matrices=False)
    z = (x - x[train].mean(0)) @ axes[:60].T
    z /= z[train].std(0)
    losses, priors, areas = [], [], []
    for y in dataset.targets.T:
        if not y[held_out].any():
            continue
        fitted = LogisticRegression(C=0.01, max_iter=300).fit(z[train], y[train])
        p = fitted.predict_proba(z[held_out])[:, 1]
        losses.append(log_loss(y[held_out], p))
        priors.append(log_loss(y[held_out], np.full(held_out.sum(), y[train].mean())))
        areas.append(roc_auc_score(y[held_out], p))
    assert np.mean(losses) < 0.95 * np.mean(priors)
    assert np.mean(areas) > 0.75


def test_refuses_what_is_there(tmp_path, written):
    before = sorted(path.name for path in written.iterdir())
    with pytest.raises(InputError, match="exists, expected a new or empty directory"):
        write_simulation(written, 240)
    assert sorted(path.name for path in written.iterdir()) == before
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError):
            write_simulation(out, 240)
    with pytest.raises(InputError, match="--signatures 99: expected at least 100"):
        write_simulation(tmp_path / "few", 99)
    assert not (tmp_path / "few").exists()


def test_an_empty_directory_is_filled_and_nothing_is_left_beside(tmp_path):
    (tmp_path / "out").mkdir()
    write_simulation(tmp_path / "out", 100)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(read_dataset(tmp_path / "out")) == 100


@pytest.fixture
def small_files():
    """As on a disk that is nearly full: no file can grow beyond 100 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, small_files):
    with pytest.raises(InputError) as caught:
        write_simulation(tmp_path / "out", 200)
    assert str(caught.value).startswith(f"{tmp_path / 'out'}: cannot be written (")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_tables_reach_the_disk_before_they_get_their_name(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def spy(handle):
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    monkeypatch.setattr(os, "fsync", spy)
    out = write_simulation(tmp_path / "out", 100)
    partial = os.path.dirname(synced[0])
    assert partial != str(out)
    assert {*synced} == {partial, str(tmp_path), *(f"{partial}/{path.name}" for path in out.iterdir())}
    assert synced[-1] == str(tmp_path)
