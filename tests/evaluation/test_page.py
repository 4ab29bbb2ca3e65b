import numpy as np
import pytest

from moa_tf.evaluation import page
from moa_tf.explanation.figures import plain_style

HOSTILE = '<script>alert("1")</script>&\'$x_1$'


@plain_style()
def draw():
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(2, 1))
    drawing.add_subplot().set_title(HOSTILE)
    return drawing


def test_a_page_is_well_formed_and_names_are_text(parse):
    parts = (
        page.paragraph(HOSTILE),
        page.listing([HOSTILE]),
        page.figure(
            draw(), HOSTILE, HOSTILE, page.details(HOSTILE, page.table(HOSTILE, [HOSTILE], [[HOSTILE]]))
        ),
    )
    text = page.page(HOSTILE, [page.paragraph("lead")], [page.Section("one", HOSTILE, parts)], HOSTILE)
    tree = parse(text)
    tags = [tag for tag, _ in tree.elements]
    assert "script" not in tags
    assert tree.texts.count(HOSTILE) == 12
    assert [tags.count(name) for name in ("h1", "h2", "nav", "main", "figure", "figcaption")] == [1] * 6
    (image,) = [values for tag, values in tree.elements if tag == "img"]
    assert image["alt"] == HOSTILE
    assert (image["width"], image["height"]) == ("192", "96")
    assert ("a", {"href": "#one"}) in tree.elements
    assert "http://" not in text
    assert "https://" not in text


def test_the_same_drawing_gives_the_same_page():
    assert page.figure(draw(), "", "") == page.figure(draw(), "", "")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (23814, "23,814"), (np.int64(1000), "1,000"), (0.123456, "0.1235"), (np.float32(2), "2"), (None, "–"),
        (float("nan"), "–"), (True, "True"), ("1000", "1000"), ("<b>", "&lt;b&gt;"),
    ],
)  # fmt: skip
def test_values_are_shown(value, shown):
    assert page.escape(value) == shown


def test_a_table_has_heads_for_columns_and_rows(parse):
    tree = parse(page.table("t", ["name", "rows"], [["a", 1500], ["b", None]]))
    heads = [values.get("scope") for tag, values in tree.elements if tag == "th"]
    assert heads == ["col", "col", "row", "row"]
    assert [values for tag, values in tree.elements if tag == "td"] == [{"class": "n"}, {"class": "n"}]
    assert tree.texts == ["t", "name", "rows", "a", "1,500", "b", "–"]
