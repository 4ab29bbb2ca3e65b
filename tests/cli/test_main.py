import subprocess
import sys

import pytest

from moa_tf.cli.main import COMMANDS, main

SCRIPT = """
import sys
from moa_tf.cli.main import cli
try:
    cli(["{}"], prog_name="moa-tf")
finally:
    heavy = {{"tensorflow", "jax", "keras", "numpy", "pandas", "sklearn", "matplotlib"}} & set(sys.modules)
    assert not heavy, heavy
"""


def test_help_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", SCRIPT.format("--help")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "data"])
def test_every_command_has_help_with_an_example(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["moa-tf", command, "--help"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code in (0, None)
    assert f"  moa-tf {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["trian"], ["train", "--folds", "1"], ["train", "--strategy", "gpu"]])
def test_a_wrong_call_exits_with_2(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["moa-tf", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
