import importlib.util
import sys

import pytest

from moa_tf.cli.main import main


@pytest.mark.skipif(importlib.util.find_spec("tfx") is not None, reason="TFX is installed")
@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--data", "table"],
        ["status", "."],
        ["compile", "out.json", "--data", "table", "--in-container", "/gcs/b", "--image", "i"],
    ],
)
def test_without_tfx_it_says_what_is_missing(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["moa-tf", "pipeline", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("error: moa-tf pipeline needs tfx")
    assert "uv pip install" in said[0]
