"""The networks' pictures and the presets' tables are those of the code as it is."""

import importlib.util
import re
from pathlib import Path

import pytest

from moa_tf.models.base import FAMILIES, get_family

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "docs" / "models"
AGAIN = "made by another version of the code; run `python docs/figures.py`"


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("family", ["mlp", "resnet"])
def test_a_picture_is_what_the_script_draws(figures, family):
    """One with a branch beside the longest way, one with two inputs and a way past what lies between."""
    drawn = figures.draw(figures.build_small(get_family(family)))
    assert (MODELS / f"{family}.svg").read_text(encoding="utf-8") == drawn, AGAIN


@pytest.mark.parametrize("family", FAMILIES)
def test_a_page_has_the_presets_and_the_picture(figures, family):
    page = (MODELS / f"{figures.PAGES.get(family, family)}.md").read_text(encoding="utf-8")
    assert figures.page_with_table(page, figures.presets(get_family(family))) == page, AGAIN
    assert figures.MARKS[0] in page
    assert f"]({family}.svg)" in page
    assert (MODELS / f"{family}.svg").stat().st_size < 20_000


def test_places_of_a_branch_by_hand(figures):
    """a ▸ b ▸ c ▸ d with a ▸ e ▸ d beside: e stands right before d, in the second column."""
    found = [
        figures.Box(name, "", "", "other", reads)
        for name, reads in (("a", ()), ("b", ("a",)), ("e", ("a",)), ("c", ("b",)), ("d", ("c", "e")))
    ]
    assert figures.place(found) == {"a": (0, 0), "b": (0, 1), "c": (0, 2), "d": (0, 3), "e": (1, 2)}


def test_the_baselines_are_all_there():
    from moa_tf.baselines.base import BASELINES

    page = (MODELS / "baselines.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE) == list(BASELINES)


def test_changelog_and_citation_have_the_version():
    from moa_tf import __version__

    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog
    assert re.search(rf"^## \[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation
