import dataclasses
import json
from functools import cache

import numpy as np
import pytest

from moa_tf.atomic import to_plain
from moa_tf.data.read import complete
from moa_tf.data.schema import CONTROL, Dataset, Signatures, SignatureSpec
from moa_tf.errors import InputError
from moa_tf.evaluation.exploration.report import explore

HOSTILE = "<script>alert('$x_1$')</script>"


def make(genes=0, cells=0, treatment=(), rows=40, drugs=True, missing=0.0, groups=False):
    """Random rows, two of a drug; the first and the last are the same, of different drugs; one batch is shifted."""
    rng = np.random.default_rng(0)
    spec = SignatureSpec(
        tuple(f"g-{i}" for i in range(genes)), tuple(f"c-{i}" for i in range(cells)), treatment, missing=missing > 0
    )  # fmt: skip
    values = {}
    for name, count in (("genes", genes), ("cells", cells)):
        if count:
            matrix = rng.normal(size=(rows, count)).astype(np.float32)
            matrix[rng.random(matrix.shape) < missing] = np.nan
            matrix[-1] = matrix[0]
            if groups:
                matrix[2::2] += 50
            values[name] = matrix
    if "cp_type" in treatment:
        values["cp_type"] = np.where(np.arange(rows) % 10 == 5, CONTROL, 0).astype(np.int32)
    if "cp_time" in treatment:
        values["cp_time"] = np.where(np.arange(rows) % 2, 24, np.nan).astype(np.float32)
    signatures = Signatures(spec, np.array([f"s{i}" for i in range(rows)], object), **values)
    targets = (np.arange(rows)[:, None] // 2 % 4 == np.arange(3)).astype(np.float32)
    targets[signatures.control] = 0
    return complete(
        Dataset(
            signatures,
            targets,
            (HOSTILE, "b", "c"),
            np.array([f"d{i // 2}" for i in range(rows)], object) if drugs else None,
            groups={"batch": np.array(["", *"ab" * rows][:rows], object)} if groups else {},
            source="some/table",
        )
    )


PANELS = {
    "genes alone": make(genes=12, drugs=False),
    "cells with gaps": make(cells=12, missing=0.1, groups=True),
    "all": make(10, 5, ("cp_type", "cp_time")),
    "one feature": make(cells=1),
    "two rows": make(genes=12, rows=2),
    "one row": make(genes=12, rows=1),
    "a column without values": make(cells=12, missing=1.0, rows=6),
}


@pytest.fixture(scope="module")
def explored():
    """Explores a panel once, for all tests."""
    return cache(lambda panel: explore(PANELS[panel]))


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_has_a_page(panel, explored, parse, tmp_path):
    found = explored(panel)
    tree = parse(found.page)
    tags = [tag for tag, _ in tree.elements]
    assert "script" not in tags
    assert "http" not in found.page.replace("http-equiv", "")
    anchors = [values["href"] for tag, values in tree.elements if tag == "a"]
    ids = {f"#{values['id']}" for _, values in tree.elements if "id" in values}
    assert set(anchors) <= ids
    assert len(anchors) == len(set(anchors))
    images = [values for tag, values in tree.elements if tag == "img"]
    assert all(len(image["alt"]) > 20 for image in images)
    assert tags.count("figcaption") == tags.count("figure") == len(images)
    json.dumps(to_plain(found.figures), allow_nan=False)
    found.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", *found.tables}


def test_what_is_there_is_found(explored, parse):
    found = explored("all")
    assert found.figures["overview"] == {
        "signatures": 40, "controls": 4, "drugs": 20, "genes": 10, "cell_lines": 5, "targets": 3,
        "nonscored_targets": 0,
    }  # fmt: skip
    assert found.figures["near_duplicates"] == {"above": 0.99, "pairs": 1, "identical": 1}
    pair = found.tables["duplicates.csv"].iloc[0]
    assert pair[["sig_id", "other_sig_id", "drug", "other_drug", "identical", "same_targets"]].tolist() == [
        "s0", "s39", "d0", "d19", "yes", "no",
    ]  # fmt: skip
    assert found.figures["treatment"] == {"cp_type": {"trt_cp": 36, "ctl_vehicle": 4}, "cp_time": {"24": 20}}
    # Rows 5, 15, 25 and 35 are controls: one of two of their drugs.
    assert found.figures["rows_of_a_drug"] == {"drugs": 20, "median": 2, "most": 2}
    assert found.figures["labels"]["per_signature"] == {"0": 9, "1": 27}
    assert found.figures["replicates"]["drugs_with_replicates"] == 16
    assert found.figures["mean_viability"].keys() == {"with a target", "without", "controls"}
    assert HOSTILE in parse(found.page).texts


def test_missing_values_are_counted(explored):
    found = explored("cells with gaps")
    cells = PANELS["cells with gaps"].signatures.cells
    assert found.figures["missing"] == np.isnan(cells).sum()
    table = found.tables["missing.csv"]
    assert table["missing"].sum() * 12 == pytest.approx(np.isnan(cells).sum())
    assert (table["missing"] > 0).all()
    np.testing.assert_allclose(found.tables["cells.csv"]["missing"], np.isnan(cells).mean(0))


def test_groups_that_a_table_has_are_judged(explored):
    """The first row has no batch."""
    batch, drug = (
        next(row for row in explored("cells with gaps").figures["groups"] if row["column"] == name)
        for name in ("batch", "drug_id")
    )
    assert (batch["groups"], batch["signatures"], drug["groups"]) == (2, 39, 20)
    assert batch["eta2"] > 0.5
    assert batch["eta2_first"] > 0.9
    assert batch["by_chance"] == pytest.approx(1 / 38)


def test_controls_alone_are_refused():
    dataset = make(genes=3, treatment=("cp_type",))
    kinds = np.full(40, CONTROL, np.int32)
    signatures = dataclasses.replace(dataset.signatures, cp_type=kinds)
    with pytest.raises(InputError, match="all 40 signatures are controls, expected treated ones"):
        explore(dataclasses.replace(dataset, signatures=signatures))
