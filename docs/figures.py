"""Draws each family's network, and writes its presets' table, from the code: `python docs/figures.py`.

A picture is the preset `small` on a simulated panel: `docs/models/FAMILY.svg`. A table stands in the family's page
between the two comments of `MARKS`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import keras

    from moa_tf.models.base import Family

MODELS = Path(__file__).parent / "models"
PAGES = {"gru": "recurrent", "lstm": "recurrent"}
"""Family -> its page, where that is called otherwise."""
MARKS = ("<!-- presets, by docs/figures.py -->", "<!-- end of presets -->")

WIDTH, HEIGHT, GAP, LANE, MARGIN = 400, 26, 16, 60, 10
FILLS = {"input": "#cfe3f4", "weights": "#d3ebdd", "other": "#eceff1"}


class Box(NamedTuple):
    """A layer: what it is called, what it is, the shape of what it gives, and the names of those that it reads."""

    name: str
    kind: str
    shape: str
    fill: str
    reads: tuple[str, ...]


def build_small(family: Family) -> keras.Model:
    """The network of preset `small` on lish-moa's panel, simulated: 772 genes, 100 cell lines, 206 mechanisms."""
    import numpy as np

    from moa_tf.data.simulate import simulate

    dataset = simulate(100)
    config = family.presets["small"].architecture
    preprocessing = family.fit_preprocessing(dataset.signatures, config, 0)
    return family.build(preprocessing, config, np.full(206, 0.004), 0)


def boxes(network: keras.Model) -> list[Box]:
    """The network's layers, each after those that it reads."""
    import keras

    found = []
    # A model inside this one has further nodes, of its own layers.
    node_of = {id(node.operation): node for nodes in network._nodes_by_depth.values() for node in nodes}
    for operation in network.operations:
        node = node_of[id(operation)]
        output = node.output_tensors[0]
        reads = {tensor._keras_history.operation.name: None for tensor in node.input_tensors}
        is_input = isinstance(operation, keras.layers.InputLayer)
        fill = "input" if is_input else "weights" if operation.weights else "other"
        shape = " × ".join(str(size) for size in output.shape[1:])
        kind = "input" if is_input else type(operation).__name__
        found.append(Box(operation.name, kind, shape, fill, tuple(reads)))
    return found


def place(found: list[Box]) -> dict[str, tuple[int, int]]:
    """Name -> (column, row). The longest way is column 0, what is beside it stands as low as it can, in column 1."""
    by_name = {box.name: box for box in found}
    depth: dict[str, int] = {}
    for box in found:
        depth[box.name] = 1 + max((depth[name] for name in box.reads), default=-1)
    last = max(depth, key=depth.__getitem__)
    way = [last]
    while by_name[way[-1]].reads:
        way.append(max(by_name[way[-1]].reads, key=depth.__getitem__))
    row = {name: depth[name] for name in way}
    for box in reversed(found):
        if box.name not in row:
            row[box.name] = min(row[user.name] for user in found if box.name in user.reads) - 1
    return {name: (0 if name in way else 1, row[name]) for name in by_name}


def draw(network: keras.Model) -> str:
    """The network as SVG, on whatever ground: boxes have a light one of their own."""
    found = boxes(network)
    where = place(found)
    pitch, columns = HEIGHT + GAP, 1 + max(column for column, _ in where.values())
    width = 2 * MARGIN + columns * WIDTH + (columns - 1) * LANE + LANE // 2
    height = 2 * MARGIN + pitch * (1 + max(row for _, row in where.values())) - GAP

    def corner(name: str) -> tuple[int, int]:
        column, row = where[name]
        return MARGIN + column * (WIDTH + LANE), MARGIN + row * pitch

    lines, skips = [], 0
    for box in found:
        for name in box.reads:
            (x1, y1), (x2, y2) = corner(name), corner(box.name)
            start, end = x1 + WIDTH // 2, x2 + WIDTH // 2
            if x1 == x2 and y2 - y1 > pitch:  # past what lies between
                lane = x1 + WIDTH + 12 + 8 * (skips % 2)
                skips += 1
                way = f"M{x1 + WIDTH} {y1 + HEIGHT // 2}H{lane}V{y2 + HEIGHT // 2}H{x2 + WIDTH + 4}"
            elif x1 == x2:
                way = f"M{start} {y1 + HEIGHT}V{y2 - 4}"
            elif x2 > x1:
                way = f"M{x1 + WIDTH} {y1 + HEIGHT // 2}H{end}V{y2 - 4}"
            else:
                way = f"M{start} {y1 + HEIGHT}V{y2 + HEIGHT // 2}H{x2 + WIDTH + 4}"
            lines.append(f'<path d="{way}"/>')
    texts = []
    for box in found:
        x, y = corner(box.name)
        texts.append(
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" fill="{FILLS[box.fill]}"/>'
            f'<text x="{x + 10}" y="{y + 17}"><tspan class="n">{escape(box.name)}</tspan>'
            f'<tspan dx="8" class="k">{escape(box.kind)}</tspan></text>'
            f'<text x="{x + WIDTH - 10}" y="{y + 17}" text-anchor="end">{escape(box.shape)}</text>'
        )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
            f"<title>{escape(network.name)}: {', '.join(escape(box.name) for box in found)}</title>",
            "<style>text{font:13px system-ui,sans-serif;fill:#1b1b1b}.n{font-weight:600}.k{fill:#5a5a5a}"
            "path{fill:none;stroke:#888;stroke-width:1.4;marker-end:url(#to)}rect{rx:5px;stroke:#888;stroke-width:.6}</style>",
            '<marker id="to" viewBox="0 0 8 8" refX="4" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
            '<polygon points="0,0 8,4 0,8" fill="#888"/></marker>',
            *lines,
            *texts,
            "</svg>\n",
        ]
    )


def presets(family: Family) -> str:
    """A table of what the presets set: all of the architecture, of the recipe what is not its default somewhere."""
    names = sorted(family.presets, key=lambda name: name != "small")
    rows = []
    for part in ("architecture", "recipe"):
        values = {name: getattr(family.presets[name], part) for name in names}
        for field in dataclasses.fields(values[names[0]]):
            of = [getattr(values[name], field.name) for name in names]
            if part == "architecture" or any(value != _default(field) for value in of):
                rows.append([f"`{field.name}`", *(_show(value) for value in of)])
    if family.solve is not None:  # the recipe says nothing to a solver
        rows = rows[: len(dataclasses.fields(family.presets[names[0]].architecture))]
    return "\n".join(
        "| " + " | ".join(cells) + " |"
        for cells in (["setting", *(f"`{name}`" for name in names)], ["---"] * (len(names) + 1), *rows)
    )


def _default(field: dataclasses.Field) -> Any:
    return field.default_factory() if field.default is dataclasses.MISSING else field.default


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(_show, value)) or "none"
    return (
        "none" if value is None or value == "" else f"{value:g}" if isinstance(value, float) else str(value)
    )


def page_with_table(page: str, table: str) -> str:
    """A page's text with this table between the marks."""
    start, end = map(re.escape, MARKS)
    return re.sub(f"{start}.*?{end}", lambda _: f"{MARKS[0]}\n\n{table}\n\n{MARKS[1]}", page, flags=re.DOTALL)


def main(names: Iterable[str] | None = None) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from moa_tf.models.base import FAMILIES, get_family

    for name in names or FAMILIES:
        family = get_family(name)
        (MODELS / f"{name}.svg").write_text(draw(build_small(family)), encoding="utf-8")
        page = MODELS / f"{PAGES.get(name, name)}.md"
        if page.exists():
            text = page.read_text(encoding="utf-8")
            page.write_text(page_with_table(text, presets(family)), encoding="utf-8")


if __name__ == "__main__":
    main()
