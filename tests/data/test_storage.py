import resource
import shutil

import numpy as np
import pandas as pd
import pytest

import moa_tf.data.size as size_module
import moa_tf.data.storage as storage_module
from moa_tf.data.read import read_dataset
from moa_tf.data.size import choose_storage, measure
from moa_tf.data.storage import ALIGNMENT, Disk, Memory, read, whole_groups
from moa_tf.errors import InputError


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "scratch").mkdir()
    return Disk(tmp_path / "scratch")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_on_disk_is_the_table_in_memory(write, labels, drugs, disk, suffix, monkeypatch):
    other = labels.iloc[::-1].rename(columns={name: f"n_{name}" for name in ("t_a", "t_b", "t_c")})
    odd = labels.copy()
    odd.loc[1, "t_b"] = 1 - odd.loc[1, "t_b"]  # a warning, too
    directory = write(
        suffix, train_targets_scored=odd.sample(frac=1, random_state=1), train_targets_nonscored=other
    )
    expected = read_dataset(directory)
    monkeypatch.setattr(storage_module, "BLOCK", 5)
    found = read_dataset(directory, storage=disk)
    assert found.fingerprint == expected.fingerprint
    assert found.notes == expected.notes
    assert "1 drugs have rows with different labels" in str(found.notes)
    for name in ("targets", "nonscored"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name, values in expected.signatures.inputs().items():
        np.testing.assert_array_equal(found.signatures.inputs()[name], values)
        assert found.signatures.inputs()[name].dtype == values.dtype


def test_files_have_no_name_and_arrays_are_plain(disk):
    filled = disk.empty((3, 2), np.float32)
    filled[:] = 7
    grown = disk.growing()
    for rows in (np.ones((2, 3), np.float32), np.zeros((0, 3), np.float32), np.full((1, 3), 2, np.float32)):
        grown.append(rows)
    grown = grown.finish()
    assert list(disk.directory.iterdir()) == []
    assert (filled == 7).all()
    np.testing.assert_array_equal(grown, [[1, 1, 1], [1, 1, 1], [2, 2, 2]])
    assert type(filled) is type(grown) is type(filled[1:] + 1) is np.ndarray
    grown[0] = 5  # what is mapped can be written, too
    np.testing.assert_array_equal(disk.take(grown, np.array([2, 0])), [[2, 2, 2], [5, 5, 5]])
    assert disk.growing().finish() is None
    assert disk.empty((0, 4), np.int32).shape == (0, 4)


@pytest.mark.parametrize("shape", [(5, 3), (1,), (0, 2)])
def test_arrays_in_memory_begin_where_a_tensor_can(shape):
    found = Memory().empty(shape, np.float32)
    assert (found.shape, found.dtype) == (shape, np.float32)
    assert found.ctypes.data % ALIGNMENT == 0 or not found.size


def test_a_disk_with_too_little_room_is_one_line(write, disk, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(
        InputError, match=r"scratch: 0\.0 GB are needed on this disk for about 12 signatures.* are free"
    ):
        choose_storage("disk", write(), disk.directory, print)
    with pytest.raises(InputError, match="are needed on this disk for an array"):
        disk.empty((10, 10), np.float32)


def test_a_disk_that_is_full_by_then_is_one_line(disk):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        for write in (
            lambda: disk.growing().append(np.zeros((1 << 16, 2), np.float32)),
            lambda: disk.empty((1 << 16, 2), np.float32),
        ):
            with pytest.raises(InputError, match=r"scratch: cannot be written \(File too large\)"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_auto_takes_the_disk_where_more_than_half_of_the_free_memory_is_needed(write, tmp_path, monkeypatch):
    told = []
    directory = write()
    need = measure(directory).bytes()
    for free, on_disk in ((2 * need, False), (2 * need - 1, True), (None, False)):
        monkeypatch.setattr(size_module, "available_memory", lambda free=free: free)
        found = choose_storage("auto", directory, tmp_path / "runs/one", told.append)
        assert found.on_disk == on_disk
        assert not choose_storage("memory", directory, tmp_path, told.append).on_disk
        assert choose_storage("disk", directory, tmp_path, told.append).on_disk
    assert found is not None
    assert (
        f"12 signatures, their features and predictions are kept on disk, in {tmp_path}: 0.0 GB of memory"
        in told[1]
    )


def test_what_features_are_kept_in_is_half_as_large_and_read_as_float32(disk):
    assert (Memory().features, disk.features) == (np.float32, np.float32)
    half = Disk(disk.directory, bfloat16=True).features
    kept = disk.empty((2, 3), half)
    kept[:] = [
        [1.00390625, 2.0, 3.0],
        [4.0, 5.0, 1.01171875],
    ]  # 1 + 2⁻⁸ and 1 + 3 · 2⁻⁸: ties, which go to even
    assert kept.nbytes == 2 * 2 * 3
    found = read(kept, np.array([1, 0]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[4.0, 5.0, 1.015625], [1.0, 2.0, 3.0]])


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_the_size_is_known_before_the_table_is_read(tmp_path, suffix):
    rng = np.random.default_rng(0)
    rows = 30_000
    table = pd.DataFrame({"sig_id": [f"s{i:06d}" for i in range(rows)]})
    for name in ("g-0", "g-1", "c-0", "c-1", "c-2"):
        table[name] = rng.normal(size=rows).round(4)
    table["note"] = 1
    labels = table[["sig_id"]].assign(a=0, b=1)
    for stem, values in (("train_features", table), ("train_targets_scored", labels)):
        path = tmp_path / (stem + suffix)
        values.to_parquet(path) if suffix == ".parquet" else values.to_csv(path, index=False)
    found = measure(tmp_path)
    assert (found.features, found.labels, found.predictions) == (5, 2, 2)
    # The features, and the 200 columns that preprocessing adds to them, beside the features and both kinds of labels.
    assert found.bytes() == found.rows * 4 * (5 + 2 + 2 + 205)
    assert found.bytes(2) == found.rows * (4 * (5 + 2 + 2) + 2 * 205)
    assert found.rows == (rows if suffix == ".parquet" else pytest.approx(rows, rel=0.1))
    (tmp_path / f"train_targets_scored{suffix}").unlink()
    assert measure(tmp_path) is None  # reading says why


def test_groups_stay_whole(monkeypatch):
    monkeypatch.setattr(storage_module, "BLOCK", 4)
    starts = np.array([0, 3, 4, 10, 11])  # of 3, 1, 6, 1 and 2 rows
    found = [(group.start, group.stop, part.start, part.stop) for group, part in whole_groups(starts, 13)]
    assert found == [(0, 2, 0, 4), (2, 3, 4, 10), (3, 5, 10, 13)]
    assert list(whole_groups(starts[:0], 0)) == []
