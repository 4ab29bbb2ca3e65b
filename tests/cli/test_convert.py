import json
import sys

import h5py
import numpy as np
import pandas as pd
import pytest

from moa_tf.cli.main import main


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["moa-tf", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return call


@pytest.fixture
def screen(tmp_path):
    """Six drugs and DMSO in six wells each, written as GCTX with own names of fields."""
    rng = np.random.default_rng(0)
    drugs = [f"BRD-K0000000{i // 6}" if i >= 6 else "DMSO" for i in range(42)]
    with h5py.File(tmp_path / "screen.gctx", "w") as file:
        file["0/DATA/0/matrix"] = rng.standard_normal((42, 3)).astype("f4")
        file["0/META/ROW/id"] = np.array([b"16", b"23", b"25"])
        file["0/META/COL/id"] = np.array([f"well-{i}" for i in range(42)], "S")
        file["0/META/COL/compound"] = np.array(drugs, "S")
        file["0/META/COL/pert_type"] = np.array(["ctl_vehicle"] * 6 + ["trt_cp"] * 36, "S")
    text = "".join(f"BRD-K0000000{i}\t{'A inhibitor' if i % 2 else 'B inhibitor'}\n" for i in range(1, 6))
    (tmp_path / "drugs.txt").write_text("pert_id\tmoa\n" + text)
    return tmp_path


def test_convert_then_check(screen, call):
    arguments = [
        "data",
        "convert",
        screen / "screen.gctx",
        screen / "out",
        "--compounds",
        screen / "drugs.txt",
    ]
    arguments += ["--rename", "pert_id=compound", "--json", screen / "figures.json", "--min-drugs", 2]
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    rows = {line.rsplit(None, 1)[0].strip(): line.split()[-1] for line in out.splitlines() if line.strip()}
    assert (rows["to train, treated"], rows["to train, controls"], rows["to predict"]) == ("30", "6", "6")
    assert rows["features (g-AARS, g-ABCF1, g-ABL1, …)"] == "3"
    figures = json.loads((screen / "figures.json").read_text())
    assert figures["drugs"] == {"train": 5, "test": 1}
    assert figures["kind"] == "GCTX, float32, contiguous"
    assert call("data", "check", screen / "out", "--json", screen / "check.json")[0] == 0
    figures = json.loads((screen / "check.json").read_text())
    assert figures["targets"]["positives_per_target"] == {"a_inhibitor": 18, "b_inhibitor": 12}
    assert figures["test"]["rows"] == 6
    assert pd.read_parquet(screen / "out" / "train_drug.parquet")["drug_id"].nunique() == 6


def test_wrong_calls(screen, call):
    source = screen / "screen.gctx"
    for arguments, message in (
        (["--rename", "pert_id"], "error: --rename 'pert_id': expected NEW=OLD, each OLD once"),
        (["--quality", "tas>x"], "error: --quality 'tas>x': expected a field"),
        (
            ["--types", "trt_oe"],
            "error: --types: no signature is of type trt_oe, expected some of ctl_vehicle, trt_cp",
        ),
        (["--signatures", screen / "none"], f"error: {screen / 'none'}: "),
        (
            ["--compounds", screen / "drugs.txt"],
            "error: --compounds: no field tells the drugs of the signatures",
        ),
    ):
        code, out, err = call("data", "convert", source, screen / "out", *arguments)
        assert code == 2
        assert out == ""
        assert err.startswith(message)
        assert err.count("\n") == 1
    (screen / "cut.gctx").write_bytes(source.read_bytes()[:900])
    code, _, err = call("data", "convert", screen / "cut.gctx", screen / "out")
    assert code == 2
    assert err.startswith(f"error: {screen / 'cut.gctx'}: not a readable HDF5 file")
    assert not (screen / "out").exists()
    assert "Examples:" in call("data", "convert", "--help")[1]
