"""The page that says what is answered names tests that are there."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_each_row_has_a_test():
    text = (HERE.parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    there = {
        name
        for file in HERE.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }
    assert len(named) > 30
    assert named <= there, named - there
