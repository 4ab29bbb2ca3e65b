"""The documents' commands, page by page: each block is run, or says why not; its options exist all the same."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from moa_tf.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(sh|python)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (\S[^>]*) -->\s*$")
SHORTER = (
    (r"moa-tf train\b", "moa-tf train --folds 2 --set steps=20"),
    (r"moa-tf compare\b", "moa-tf compare --models prior,connectivity --folds 2"),
    (r",mlp\b", ""),
    # A solver: XLA would compile each network for a minute.
    (r"--backend jax\b", "--backend jax --model connectivity"),
    (r"moa-tf tune\b", "moa-tf tune --set steps=20"),
    (r"--trials \d+", "--trials 2"),
    (r"(?m)^pip install .*$", ""),
)
"""The commands' work is cut down: of an option that is there twice the later counts, so a page's own prevails. What is
to be installed is there."""

README = """
moa-tf train --data lish-moa --model connectivity --out runs/connectivity --export saved_models/connectivity
moa-tf train --data lish-moa --out runs/mlp --export saved_models/mlp
ln -s mlp saved_models/tabnet
printf 'new,old\\ng-0,16\\n' > gene_mapping.csv
"""
"""What the README's commands take for granted, since it tells them apart from one another."""


class Block(NamedTuple):
    language: str
    code: str
    reason: str | None


def blocks(page):
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        indent, language, code = match.groups()
        excuse = NOT_RUN.search(text[: match.start()])
        code = "\n".join(line.removeprefix(indent) for line in code.splitlines())
        yield Block(language, code, excuse and excuse[1])


def name(page):
    return page.relative_to(ROOT).as_posix()


def commands(code):
    """The calls of moa-tf in a block, as lists of arguments."""
    for line in code.replace("\\\n", " ").splitlines():
        line = line.split(" -- ")[0]  # what is another program's
        if "moa-tf " in line and not line.lstrip().startswith("#"):
            for part in re.split(r"&&|\|", line):
                words = shlex.split(part, comments=True)
                if words and Path(words[0]).name == "moa-tf":
                    yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_exist(page):
    """Of blocks that are not run too: parsing alone finds a command, an option or a choice that is not there."""
    for block in blocks(page):
        for arguments in commands(block.code):
            command, rest = cli, arguments
            context = click.Context(cli, info_name="moa-tf")
            while isinstance(command, click.Group):
                _, command, rest = command.resolve_command(context, rest)
                assert command is not None, arguments
                context = click.Context(command, parent=context, info_name=command.name)
            command.make_context(command.name, list(rest), parent=context.parent)


def test_every_code_block_has_a_language():
    for page in PAGES:
        fences = re.findall(r"^ *```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) % 2 == 0, page
        for opened in fences[::2]:
            assert opened in ("sh", "python", "text", ""), f"{page}: ```{opened} would not be run"


def test_enough_is_run():
    """An excuse is not the way out: the tutorial and the page on leaks are run but for fetching a file."""
    of = {name(page): list(blocks(page)) for page in PAGES}
    run = {page: sum(block.reason is None for block in every) for page, every in of.items()}
    assert len(of["docs/tutorial.md"]) - run["docs/tutorial.md"] <= 1
    assert len(of["docs/real.md"]) == run["docs/real.md"]
    assert run["README.md"] >= len(of["README.md"]) / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.reason is None for block in blocks(page))], ids=name
)
def test_blocks_run(page, stand_ins, tmp_path):
    """In order, in one directory; a page's blocks find what those before have left."""
    shutil.copytree(stand_ins, tmp_path, dirs_exist_ok=True)
    if "data convert plate.gctx plate" in page.read_text(encoding="utf-8"):
        shutil.rmtree(tmp_path / "plate")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    readme = page == ROOT / "README.md"
    for block in [*[Block("sh", README, None)] * readme, *blocks(page)]:
        # The README's Python is one program: tests/test_readme.py.
        if block.reason is not None or (readme and block.language == "python"):
            continue
        code = block.code
        if block.language == "sh":
            for pattern, shorter in SHORTER:
                code = re.sub(pattern, shorter, code)
        call = {"sh": ["bash", "-euo", "pipefail", "-c", code], "python": [sys.executable, "-c", code]}
        done = subprocess.run(
            call[block.language], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
