"""The examples in docstrings give what they say; those of layers are tried in `layers/test_every_layer.py`."""

import doctest
import importlib
from pathlib import Path

import pytest

import moa_tf

HOME = Path(moa_tf.__file__).parent
MODULES = [
    ".".join(["moa_tf", *path.relative_to(HOME).with_suffix("").parts])
    for path in sorted(HOME.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8") and path.parent.name != "layers"
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
