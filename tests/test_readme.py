"""What README says in Python does what it says."""

import re
from pathlib import Path

import numpy as np
import pytest

from moa_tf.data.simulate import write_simulation

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_the_section_from_python_runs(tmp_path, monkeypatch, capsys):
    text = README.read_text(encoding="utf-8")
    section = text.partition("\n## From Python\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 4
    write_simulation(tmp_path / "sample", 300, seed=3)
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    metrics = names["run"].metrics["overall"]
    assert names["predicted"].shape == (20, 1 + len(names["model"].targets))
    # The folds differ, the model does not.
    assert -np.mean(names["scores"]) == pytest.approx(metrics["log_loss_treated"], rel=0.1)
    assert names["probabilities"].shape == (5, names["Y"].shape[1])
    printed = capsys.readouterr().out
    assert printed.count("fold 0 seed 0 {'loss'") == 3
    assert "result " in printed
    assert len(list((tmp_path / "board" / "fold-0-seed-0").iterdir())) == 1
