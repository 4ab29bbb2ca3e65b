"""Which precision `auto` is."""

import json

import pytest
from click.testing import CliRunner

from moa_tf.cli.main import cli
from moa_tf.config import override
from moa_tf.models.base import get_family
from moa_tf.training.precision import choose_precision
from moa_tf.training.strategy import Device, cpu

AMX, PLAIN = Device("cpu", True), Device("cpu", False)


def chosen(name, preset, device, asked="auto", settings=()):
    family = get_family(name)
    return choose_precision(asked, family, override(family.presets[preset], settings).architecture, device)


@pytest.mark.parametrize(
    ("name", "preset", "device", "policy", "why"),
    [
        ("mlp", "one-cycle", AMX, "mixed_bfloat16", "this CPU multiplies matrices in bfloat16"),
        ("mlp", "one-cycle", PLAIN, "float32", "this CPU does not multiply matrices in bfloat16"),
        ("mlp", "small", AMX, "float32", "mlp of this size does not gain by it"),
        ("mlp", "small", Device("tpu", True), "mixed_bfloat16", "this TPU multiplies"),
        ("deepinsight", "small", AMX, "float32", "deepinsight of this size does not gain"),
        ("deepinsight", "small", Device("gpu", True), "mixed_bfloat16", "this GPU multiplies"),
        ("mlp", "one-cycle", Device("gpu", False), "float32", "this GPU does not"),
        ("mlp", "one-cycle", Device("gpu", True), "float32", "mlp of this size does not gain"),
        ("tabm", "small", AMX, "mixed_bfloat16", "this CPU multiplies"),
        ("cnn1d", "small", AMX, "float32", "cnn1d of this size does not gain"),
        ("cnn1d", "second-place", AMX, "mixed_bfloat16", "this CPU multiplies"),
        ("tabm", "full", Device("gpu", True), "mixed_bfloat16", "this GPU multiplies"),
        ("gru", "large", Device("gpu", True), "float32", "gru of this size does not gain"),
        ("linear", "default", Device("gpu", True), "float32", "linear is solved in it"),
    ],
)
def test_auto_is_what_is_faster(name, preset, device, policy, why):
    preset = preset if preset in get_family(name).presets else next(iter(get_family(name).presets))
    found, reason = chosen(name, preset, device)
    assert found == policy
    assert why in reason


def test_what_is_asked_for_is_taken():
    for asked in ("float32", "mixed_bfloat16", "mixed_float16"):
        assert chosen("mlp", "small", AMX, asked) == (asked, "")


def test_the_cpu_says_what_it_can():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        flags = file.read().split()
        has = "amx_bf16" in flags or "avx512_bf16" in flags
    assert cpu() == Device("cpu", has)


def test_a_run_says_and_keeps_what_auto_was(tmp_path):
    result = CliRunner().invoke(
        cli,
        [
            *(
                "train",
                "--data",
                str(_table(tmp_path)),
                "--precision",
                "auto",
                "--only-fold",
                "0",
                "--folds",
                "2",
            ),
            *("--set", "hidden=8", "--set", "steps=4", "--out", str(tmp_path / "run")),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "mlp: float32, as this CPU" in result.stderr
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["precision"] == "float32"


def _table(folder):
    made = CliRunner().invoke(cli, ["data", "simulate", str(folder / "data"), "--signatures", "120"])
    assert made.exit_code == 0, made.output
    return folder / "data"
