"""What is held out together: rows of a drug, or of one value of any further column of `train_drug`."""

from __future__ import annotations

import numpy as np

from moa_tf.data.faults import EXAMPLES, one_line
from moa_tf.data.names import find_spellings, shorten
from moa_tf.data.schema import SPLITS, Dataset
from moa_tf.errors import InputError


def find_groups(dataset: Dataset, split: str) -> np.ndarray | None:
    """The group of every row.

    A column alone decides: drugs do not join its groups, see `count_groups`. Where a column has the name of a scheme,
    the scheme is meant.

    Args:
        dataset: the rows.
        split: one of `SPLITS`, or a column of `train_drug`.

    Returns:
        [N] str objects: the drug, or the column's value; controls without one are a group of their own. None where
        drugs are not known.

    Raises:
        InputError: there is no such column, or a treated row has no value in it.
    """
    if split in SPLITS:
        return dataset.drug_id
    if split not in dataset.groups:
        there = f" ({', '.join(_columns(dataset))})" if _columns(dataset) else ", which has none"
        if dataset.drug_id is None:
            there = ", which is not there"
        expected = f"one of {', '.join(SPLITS)}, or a further column of train_drug{there}"
        raise InputError(one_line(f"--split {split}: expected {expected}"))
    group = dataset.groups[split]
    lost = _without(dataset, split)
    if len(lost):
        what = f"{len(lost)} treated signatures have no {split} in train_drug"
        shown = shorten(dataset.signatures.sig_id[lost], EXAMPLES)
        raise InputError(one_line(f"--split {split}: {what} ({shown}), expected one for each"))
    return group


def count_groups(dataset: Dataset, column: str) -> dict[str, int]:
    """How a column of `train_drug` groups rows, and treated drugs.

    Returns:
        `groups` (different values), treated `drugs`, `drugs_in_several_groups`, and treated rows `without_group`.
    """
    group, treated = dataset.groups[column], ~dataset.signatures.control
    known = group != ""
    assert dataset.drug_id is not None
    _, drug = np.unique(dataset.drug_id[treated & known], return_inverse=True)
    _, place = np.unique(group[treated & known], return_inverse=True)
    pairs = np.unique(np.stack([drug, place]), axis=1)
    return {
        "groups": len(np.unique(group[known])),
        "drugs": len(np.unique(dataset.drug_id[treated])),
        "drugs_in_several_groups": int((np.bincount(pairs[0]) > 1).sum()),
        "without_group": len(_without(dataset, column)),
    }


def count_splits(dataset: Dataset) -> dict[str, dict[str, int]]:
    """`count_groups` for each column that can be a split."""
    return {column: count_groups(dataset, column) for column in _columns(dataset)}


def remarks(dataset: Dataset, split: str) -> list[str]:
    """One line for each thing that whoever reads the figures of this split should know."""
    if split in SPLITS:
        said = f"--split {split}: the scheme of that name is meant, and not the column of train_drug"
        return [said] if split in dataset.groups else []
    lines = []
    counts = count_groups(dataset, split)
    if several := counts["drugs_in_several_groups"]:
        lines.append(
            f"{split}: {several} of {counts['drugs']} drugs are in several groups, and so in training as well as held "
            "out; the figures are not those of unseen drugs"
        )
    if odd := find_spellings(dataset.groups[split]):
        shown = "; ".join(" and ".join(map(repr, group)) for group in odd[:EXAMPLES])
        more = "; …" if len(odd) > EXAMPLES else ""
        lines.append(
            f"{split}: {len(odd)} groups differ from others in case, blanks or .0 alone ({shown}{more}), and are "
            "taken for different ones"
        )
    return [one_line(line) for line in lines]


def _columns(dataset: Dataset) -> list[str]:
    return [column for column in dataset.groups if column not in SPLITS]


def _without(dataset: Dataset, column: str) -> np.ndarray:
    return np.flatnonzero((dataset.groups[column] == "") & ~dataset.signatures.control)
