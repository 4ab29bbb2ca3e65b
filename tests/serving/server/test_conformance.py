"""The page that says what is answered names tests that are there."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_each_row_has_a_test():
    text = (HERE.parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| --- ")]
    rows = [row for row in rows if not row.endswith("| test |")]
    assert len(rows) > 35
    there = {
        name
        for file in HERE.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.rsplit("|", 2)[1])
        assert named, row
        assert set(named) <= there, row
