import numpy as np
import pandas as pd
import pytest

from moa_tf.data.read import read_dataset
from moa_tf.errors import InputError

ROWS = 12


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"sig_id": [f"id_{i}" for i in range(ROWS)]})
    frame["cp_type"] = ["ctl_vehicle", *["trt_cp"] * (ROWS - 1)]
    frame["cp_time"] = [24, 48, 72] * (ROWS // 3)
    frame["cp_dose"] = ["D1", "D2"] * (ROWS // 2)
    for name in ("g-0", "g-1", "g-2", "g-10", "c-0", "c-1"):
        frame[name] = rng.normal(size=ROWS).round(4)
    return frame


@pytest.fixture
def labels(features):
    values = np.zeros((ROWS, 3), int)
    values[np.arange(1, ROWS), np.arange(1, ROWS) % 3] = 1
    return pd.concat([features[["sig_id"]], pd.DataFrame(values, columns=["t_b", "t_a", "t_c"])], axis=1)


@pytest.fixture
def drugs(features):
    return pd.DataFrame(
        {"sig_id": features.sig_id, "drug_id": ["control", *(f"d{i % 3}" for i in range(1, ROWS))]}
    )


@pytest.fixture
def write(tmp_path, features, labels, drugs):
    """Writes the tables, with any of them replaced, and returns the directory."""

    def write(suffix=".csv", **replaced):
        tables = {"train_features": features, "train_targets_scored": labels, "train_drug": drugs} | replaced
        for stem, table in tables.items():
            path = tmp_path / (stem + suffix)
            if isinstance(table, bytes):
                path.write_bytes(table)
            elif table is None:
                continue
            elif suffix == ".parquet":
                table.to_parquet(path)
            else:
                table.to_csv(path, index=False)
        return tmp_path

    return write


@pytest.fixture
def faults():
    """The lines of the error that reading a directory raises."""

    def faults(directory):
        with pytest.raises(InputError) as caught:
            read_dataset(directory)
        return str(caught.value).splitlines()

    return faults
