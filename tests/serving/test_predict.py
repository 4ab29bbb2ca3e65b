import threading

import numpy as np
import pandas as pd
import pytest

from moa_tf.data.schema import DOSES, TYPES
from moa_tf.errors import InputError
from moa_tf.serving.predict import ahead, load_model, predict_table


def frame_of(signatures):
    """The signatures as a table with other column order and a further column."""
    columns = {f"c-{i}": signatures.cells[:, i] for i in range(len(signatures.spec.cells))}
    columns |= {f"g-{i}": signatures.genes[:, i] for i in reversed(range(len(signatures.spec.genes)))}
    columns["further"] = "x"
    columns["sig_id"] = signatures.sig_id
    for name, names in (("cp_type", TYPES), ("cp_dose", DOSES)):
        if name in signatures.spec.inputs:
            columns[name] = np.array(names)[getattr(signatures, name)]
    if "cp_time" in signatures.spec.inputs:
        columns["cp_time"] = signatures.cp_time.astype(int)
    return pd.DataFrame(columns)


def write(frame, path):
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


@pytest.fixture
def features(case, tmp_path):
    return write(frame_of(case.signatures), tmp_path / "features.csv")


@pytest.mark.parametrize("source", ["features.csv", "features.csv.gz", "features.parquet"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_any_format_and_batch_size_gives_the_same(case, tmp_path, source, batch_size):
    path = write(frame_of(case.signatures), tmp_path / source)
    done = []
    counts = predict_table(
        case.model, path, tmp_path / "out.parquet", batch_size=batch_size, progress=done.append
    )
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table.columns.tolist() == ["sig_id", *case.targets]
    assert table["sig_id"].tolist() == case.signatures.sig_id.tolist()
    np.testing.assert_allclose(table.iloc[:, 1:], case.expected(case.signatures), atol=1e-6)
    assert counts == {"signatures": 9, "controls": int(case.signatures.control.sum())}
    assert sum(done) == 9


def test_chunks_are_whole_batches_and_not_too_many(case, features, tmp_path, monkeypatch):
    monkeypatch.setattr("moa_tf.serving.predict.CHUNK", 5)
    for batch_size, chunks in ((2, [4, 4, 1]), (1, [5, 4]), (100, [9])):
        done = []
        predict_table(case.model, features, tmp_path / "o.csv", batch_size=batch_size, progress=done.append)
        assert done == chunks
    monkeypatch.setattr("moa_tf.serving.predict.BATCHES", 3)
    done = []
    predict_table(case.model, features, tmp_path / "o.csv", batch_size=1, progress=done.append)
    assert done == [3, 3, 3]


@pytest.mark.parametrize("batch_size", [1, 4, 9, None])
def test_batches_do_not_change_the_result(case, batch_size):
    probabilities = case.model.predict(case.signatures, batch_size)
    np.testing.assert_allclose(probabilities, case.expected(case.signatures), atol=1e-6)
    nothing = case.model.predict(case.signatures.take(slice(0)), batch_size)
    assert nothing.shape == (0, 3)


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz"])
def test_csv_has_the_layout_of_sample_submission_and_every_digit(case, tmp_path, features, name):
    predict_table(case.model, features, tmp_path / name, batch_size=4)
    if name.endswith(".csv"):
        lines = (tmp_path / name).read_text().splitlines()
        assert lines[0] == 'sig_id,a,"b, inhibitor",c'
        assert lines[1].startswith("id_0,0.")
    table = pd.read_csv(tmp_path / name, dtype={target: np.float32 for target in case.targets})
    assert table.columns.tolist() == ["sig_id", *case.targets]
    # The last bit of a sum depends on the batch.
    batches = [case.model.predict(case.signatures.take(slice(i, i + 4))) for i in range(0, len(table), 4)]
    np.testing.assert_array_equal(table.iloc[:, 1:], np.concatenate(batches))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.csv", name]


def test_ids_that_need_quotes_come_back(case, tmp_path):
    frame = frame_of(case.signatures)
    frame.loc[0, "sig_id"] = 'a,"b"'
    frame.loc[1, "sig_id"] = "007"
    predict_table(case.model, write(frame, tmp_path / "f.parquet"), tmp_path / "out.csv")
    assert pd.read_csv(tmp_path / "out.csv", dtype={"sig_id": str})["sig_id"][:2].tolist() == ['a,"b"', "007"]


@pytest.mark.parametrize("before", [None, "as it was"])
def test_a_fault_in_a_later_chunk_leaves_out_as_it_was(case, tmp_path, before):
    frame = frame_of(case.signatures)
    frame.loc[8, "g-1"] = np.nan
    features, out = write(frame, tmp_path / "features.csv"), tmp_path / "out.csv"
    if before:
        out.write_text(before)
    with pytest.raises(InputError, match="g-1"):
        predict_table(case.model, features, out, batch_size=2)
    assert (out.read_text() if out.exists() else None) == before
    assert not [path for path in tmp_path.iterdir() if path not in (features, out)]


def test_what_cannot_be_written_is_refused(case, tmp_path, features):
    for out, message in (
        (tmp_path / "out.txt", "expected a name that ends in"),
        (features, "is the features table itself"),
        (features / "out.csv", "cannot be written"),
    ):
        with pytest.raises(InputError, match=message):
            predict_table(case.model, features, out)
    with pytest.raises(InputError, match="no such file"):
        predict_table(case.model, tmp_path / "none.csv", tmp_path / "out.csv")
    (tmp_path / "directory.csv").mkdir()
    with pytest.raises(InputError, match="is a directory"):
        predict_table(case.model, features, tmp_path / "directory.csv")
    assert features.read_text().startswith("c-0" if case.spec.cells else "g-2")


def test_a_damaged_saved_model_is_an_input_error(case, tmp_path):
    (tmp_path / "1" / "assets").mkdir(parents=True)
    metadata = (case.version / "assets" / "metadata.json").read_text()
    (tmp_path / "1" / "assets" / "metadata.json").write_text(metadata)
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"not a protocol buffer")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(tmp_path)


def test_ahead_gives_every_item_in_order_from_another_thread():
    def items():
        for i in range(100):
            yield i, threading.get_ident()

    with ahead(items()) as read:
        got = list(read)
    assert [i for i, _ in got] == list(range(100))
    assert threading.get_ident() not in {thread for _, thread in got}


def test_ahead_stops_at_its_size_and_when_the_reader_leaves():
    made = []

    def items():
        for i in range(1000):
            made.append(i)
            yield i

    threads = threading.active_count()
    with ahead(items(), size=2) as read:
        next(read)
    assert threading.active_count() == threads
    assert len(made) <= 5  # one read, two waiting, one or two in the making


def test_ahead_passes_errors_on():
    def items():
        yield 1
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"), ahead(items()) as read:
        list(read)
