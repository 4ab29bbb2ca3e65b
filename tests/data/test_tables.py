import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moa_tf.data import parquet
from moa_tf.data.read import iter_features, read_features
from moa_tf.errors import InputError


@pytest.mark.parametrize("block", [1, 3, 64])
def test_tall_row_groups_of_parquet_read_as_others(features, tmp_path, monkeypatch, block):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    features["cp_type"] = features["cp_type"].astype("category")
    features = features[["c-1", "g-10", *features.columns.drop(["c-1", "g-10"])]]
    features.to_parquet(tmp_path / "t.parquet", row_group_size=5)
    expected = list(iter_features(tmp_path / "t.parquet", rows=2))
    monkeypatch.setattr(parquet, "TALL", 4)  # So two of the three row groups are tall.
    monkeypatch.setattr(parquet, "BLOCK", block)
    several = list(iter_features(tmp_path / "t.parquet", rows=2))
    assert [part.sig_id.tolist() for part in several] == [part.sig_id.tolist() for part in expected]
    for part, other in zip(several, expected, strict=True):
        for name, values in other.inputs().items():
            np.testing.assert_array_equal(part.inputs()[name], values)
    assert not list((tmp_path / "temporary").iterdir())


def test_faults_in_tall_row_groups_have_their_rows_and_leave_nothing_behind(features, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(parquet, "TALL", 4)
    monkeypatch.setattr(parquet, "BLOCK", 3)
    features.loc[9, "g-2"] = np.inf
    features.to_parquet(tmp_path / "t.parquet", row_group_size=7)
    with pytest.raises(InputError, match=r"column g-2: 1 infinite \(row 10, sig_id id_9\)"):
        read_features(tmp_path / "t.parquet")
    chunks = iter_features(tmp_path / "t.parquet", rows=2)
    assert next(chunks).sig_id.tolist() == ["id_0", "id_1"]
    assert list((tmp_path / "temporary").iterdir())
    chunks.close()
    assert not list((tmp_path / "temporary").iterdir())


MEMORY = """
import resource, sys
from moa_tf.data.read import iter_features
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(map(len, iter_features(sys.argv[1])))
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_memory_of_one_row_group_that_is_the_whole_file(tmp_path):
    rows, columns = (
        130_000,
        400,
    )  # More than fills the dictionary and the page of each column: 0.8 GB to hold them.
    values = np.random.default_rng(0).normal(size=rows)
    table = {"sig_id": [f"id_{i}" for i in range(rows)]} | {f"g-{j}": values + j for j in range(columns)}
    pq.write_table(pa.table(table), tmp_path / "t.parquet", row_group_size=rows)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "t.parquet")]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    assert int(result[0]) == rows
    assert int(result[1]) < 400e6
