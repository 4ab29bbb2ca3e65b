import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from moa_tf.cli.output import fixed, print_lines, print_table, write_json
from moa_tf.errors import InputError


def test_table_is_on_stdout_with_four_digits_and_is_never_folded(capsys):
    path = "a/" * 100 + "end"
    print_table("Result", ["what", "value"], [["loss [x]", 0.0171234], ["path", path], ["none", None]])
    print_table(f"Results of {path}", ["a"], [["b"]])
    captured = capsys.readouterr()
    assert f"\nResults of {path}\n" in captured.out
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


def printed_in(encoding, monkeypatch, *tables):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    for table in tables:
        print_table(*table)
    sys.stdout.flush()
    return raw.getvalue().decode(encoding)


NAMES = ["[/x]", "[final]", "[bold]b[/bold]", ":smile:", "{task.total}", "a\\[b]"]


def test_names_are_text_in_titles_columns_and_cells(capsys):
    print_table(" ".join(NAMES), NAMES, [NAMES])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].rstrip() == " ".join(NAMES)
    assert [line.split() for line in lines if "final" in line][1:] == [NAMES, NAMES]
    print_lines(*NAMES)
    assert capsys.readouterr().out.splitlines() == NAMES


def test_names_are_text_in_progress(capsys):
    from moa_tf.cli.progress import LiveReporter

    with LiveReporter() as reporter:
        reporter.start(1)
        for name in NAMES:
            reporter.message(name)
        reporter.member("[/x] [final]", 3, 1)
        reporter.epoch(1, {"loss": 0.5})
    assert capsys.readouterr().err.splitlines() == [*NAMES, "[/x] [final]: 1 epochs in 0 s  loss 0.50000"]


def test_names_are_text_on_a_terminal(monkeypatch):
    """The moving line is drawn on terminals alone."""
    from moa_tf.cli import output
    from moa_tf.cli.progress import LiveReporter

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with output.row_progress("[/x] [final]") as done:
        done(1234)
    assert "[/x] [final]: 1,234 signatures" in sys.stderr.getvalue()
    with LiveReporter() as reporter:
        reporter.start(1)
        reporter.member("[/y] [last]", 3, 1)
        reporter.bar.refresh()
    assert "[/y] [last]  epoch 0/3" in sys.stderr.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminals_encoding_keeps_the_columns_straight(monkeypatch, encoding):
    rows = [["α-blocker", 0.5], ["β₂", None], ["plain", float("nan")]]
    out = printed_in(encoding, monkeypatch, ("Taργets – …", ["name", "AUROC"], rows))
    lines = [line.strip("| ") for line in out.splitlines() if any(c.isalnum() for c in line)]
    drug, beta, dash = (
        ("α-blocker", "β₂", "–") if encoding == "utf-8" else ("\\u03b1-blocker", "\\u03b2\\u2082", "-")
    )
    assert lines[0].strip() == ("Taργets – …" if encoding == "utf-8" else "Ta\\u03c1\\u03b3ets - ...")
    width = len(drug)
    space = lines[2][width:-3].replace("0.5", "")
    assert lines[2:] == [
        f"{name:{width}}{space}{value:>3}" for name, value in ((drug, "0.5"), (beta, dash), ("plain", dash))
    ]


def test_what_is_not_defined_is_a_dash(capsys):
    print_table(
        "", ["what", "value"], [["a", float("nan")], ["b", np.float32("nan")], ["c", None], ["d", 1.0]]
    )
    out = capsys.readouterr().out
    assert "nan" not in out
    assert [line.split()[1] for line in out.splitlines() if line.strip()[:1] in tuple("abcd") and line.strip()] == [
        "–", "–", "–", "1"
    ]  # fmt: skip
    assert (fixed(None, 2), fixed(float("nan"), 2), fixed(1 / 3, 4)) == ("–", "–", "0.3333")
