import os
import sys
from pathlib import Path

import click
import pytest

from moa_tf.cli.main import main
from moa_tf.cli.options import LocalPath, json_option
from moa_tf.errors import InputError


@click.command()
@click.argument("source", type=LocalPath())
@click.option("--out", type=LocalPath(exported=True))
@json_option
def command(source, out, json_file):
    print(repr((source, out, json_file)))


def convert(*arguments):
    command.main([str(argument) for argument in arguments], standalone_mode=False)


@pytest.mark.parametrize(
    "address",
    [
        "gs://b/x",
        "s3://b/x",
        "hdfs:///x",
        "http://h/x",
        "file:///tmp/x",
        "GS://b",
        " gs://b",
        "abfs+x://b",
        "gs:/b/x",
    ],
)
@pytest.mark.parametrize("place", ["SOURCE", "--out", "--json"])
def test_addresses_are_refused(address, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        convert(*([address] if place == "SOURCE" else ["x", place, address]))
    assert (
        str(caught.value) == f"{place} {address!r}: only local paths work here (a folder of that name is ./…)"
    )
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "is blank"),
        ("  ", "is blank"),
        ("\t", "is blank"),
        ("a\0b", "zero byte"),
        ("\udcff.csv", "no text in UTF-8"),
        ("~", "~ was left by the shell"),
        ("~/x", f"expected {os.path.expanduser('~')}/x"),
        ("~root/x", "expected /root/x"),
    ],
)
def test_what_is_no_path(path, words):
    for place in ([], ["x", "--out"], ["x", "--json"]):
        with pytest.raises(InputError, match=r"^(SOURCE|--out|--json) '") as caught:
            convert(*place, path)
        assert words in str(caught.value)


def test_what_is_a_path(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for path in ("a b", "./gs:/b", "~x/y", "a~b", "run-12:30/x", "c:d", "[x]", "α"):
        convert(path)
        assert capsys.readouterr().out == f"{(Path(path), None, None)!r}\n"
    assert os.listdir() == []


@pytest.mark.parametrize("name", ["m[9]", "a*", "what?", "a\\b", "x/[a-z]/y"])
def test_roots_that_tensorflow_takes_for_patterns(name, tmp_path, monkeypatch):
    for path in (name, tmp_path / name):
        with pytest.raises(InputError, match="TensorFlow takes"):
            convert("x", "--out", path)
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(InputError, match="TensorFlow takes"):
        convert("x", "--out", "models")


def test_json_is_tried_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("kept")
    Path("link").symlink_to("file")
    for source, target, words in (
        ("x", "file/y.json", "--json|cannot be written"),
        ("x", ".", "is a directory"),
        ("file", "link", "link: is file itself"),
        ("x", "./x", "x: is x itself"),
        ("x", "/proc/y", "cannot be written"),
    ):
        with pytest.raises(InputError, match=words):
            convert(source, "--json", target)
    convert("x", "--json", "/dev/null")
    convert("/dev/null", "--json", "/dev/null")
    convert("x", "--json", "new/y.json")
    assert sorted(os.listdir()) == ["file", "link"]
    assert capsys.readouterr().out.count("\n") == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "gs://b/m", "f.csv", "o.csv"],
        ["predict", "m", "s3://b/f.csv", "o.csv"],
        ["predict", "m", "f.csv", "gs://b/o.csv"],
        ["predict", "m", "f.csv", "o.csv", "--json", "gs://b/x.json"],
        ["evaluate", "gs://b/p.csv", "t.csv"],
        ["evaluate", "p.csv", "http://h/t.csv"],
        ["evaluate", "p.csv", "t.csv", "--features", "gs://b/f.csv"],
        ["explain", "gs://b/run", "f.csv", "o"],
        ["explain", "run", "gs://b/f.csv", "o"],
        ["explain", "run", "f.csv", "gs://b/o"],
        ["explain", "run", "f.csv", "o", "--genes", "gs://b/g.csv"],
        ["explain", "run", "f.csv", "o", "--targets", "gs://b/t.csv"],
    ],
)
def test_every_command_knows_addresses(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["moa-tf", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("only local paths work here (a folder of that name is ./…)")
    assert os.listdir() == []
