import json
from pathlib import Path

import numpy as np
import pytest

from moa_tf.cli.output import print_table, write_json
from moa_tf.errors import InputError


def test_table_is_on_stdout_with_four_digits_and_is_never_folded(capsys):
    path = "a/" * 100 + "end"
    print_table("Result", ["what", "value"], [["loss [x]", 0.0171234], ["path", path], ["none", None]])
    captured = capsys.readouterr()
    assert "loss [x]" in captured.out  # square brackets are no markup
    assert "0.01712" in captured.out
    assert path in captured.out
    assert captured.err == ""


def test_json_is_strict_and_plain(tmp_path):
    path = tmp_path / "new" / "figures.json"
    write_json(
        path, {"a": np.float32(0.5), "b": np.arange(2), "c": float("nan"), 3: Path("x"), "t": (1, None)}
    )
    assert json.loads(path.read_text()) == {"a": 0.5, "b": [0, 1], "c": None, "3": "x", "t": [1, None]}
    assert [file.name for file in path.parent.iterdir()] == ["figures.json"]


def test_json_to_a_directory_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="is a directory"):
        write_json(tmp_path, {})
