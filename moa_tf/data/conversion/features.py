"""What the features are called, and which of the genes are landmarks."""

from __future__ import annotations

import numpy as np
import pandas as pd

from moa_tf.data.conversion.fields import values_of
from moa_tf.data.conversion.source import Source
from moa_tf.data.landmarks import landmark_symbols
from moa_tf.data.names import shorten
from moa_tf.errors import InputError

PREFIXES = {"genes": "g-", "viability": "c-"}


def name_features(
    source: Source, kind: str, genes: pd.DataFrame | None, landmarks: bool
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The features to keep and their columns' names.

    A gene's symbol comes from `genes`, else from the source's own fields, else, where every feature is a landmark
    gene by its Entrez number, from the table of these. A gene without a symbol is called by its id, genes that share
    a symbol by symbol and id.

    Args:
        source: the signatures.
        kind: `genes` or `viability`.
        genes: a table of genes with their symbols, or None.
        landmarks: whether to keep the 978 landmark genes only.

    Returns:
        [K] indices of features, [K] names, and what is to be said.

    Raises:
        InputError: no gene is a landmark, or in the table.
    """
    ids = source.feature_id
    every = np.arange(len(ids))
    prefixed = np.array([value.startswith(tuple(PREFIXES.values())) for value in ids])
    if kind == "viability" or prefixed.all():
        if genes is not None or landmarks:
            raise InputError(
                "--genes, --landmarks: the features are no genes by id, expected the matrix of a plate"
            )
        return every, np.where(prefixed.all(), ids, PREFIXES[kind] + ids), []
    entrez, remarks = values_of(source.features, "gene"), []
    if entrez is None:
        entrez = ids
    symbols = values_of(source.features, "symbol")
    space = _are_landmarks(entrez, symbols)
    if genes is not None:
        place = _match(genes, ids, entrez)
        found = place >= 0
        if not found.any():
            raise InputError(f"--genes: has none of the {len(ids)} genes ({shorten(ids, 3)})")
        if not found.all():
            remarks.append(
                f"--genes has no row for {(~found).sum()} of {len(ids)} genes ({shorten(ids[~found], 3)})"
            )
        listed = values_of(genes, "symbol")[place]
        symbols = np.where(found, listed, "" if symbols is None else symbols)
        spaces = values_of(genes, "space")
        if spaces is not None:
            space = found & (spaces[place] == "landmark")
    if symbols is None:
        table = landmark_symbols()
        known = all(value in table for value in entrez)
        symbols = np.array([table[value] if known else "" for value in entrez], object)
    if landmarks:
        if not space.any():
            raise InputError(
                f"--landmarks: none of the {len(ids)} genes is known to be one ({shorten(ids, 3)}), expected Entrez "
                "numbers or symbols, in the matrix or from --genes"
            )
        every = np.flatnonzero(space)
    return every, _join(ids[every], symbols[every]), remarks


def _are_landmarks(entrez: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
    table = landmark_symbols()
    known = np.array([value in table for value in entrez])
    if symbols is not None and not known.any():
        known = np.isin(symbols, list(table.values()))
    return known


def _match(genes: pd.DataFrame, ids: np.ndarray, entrez: np.ndarray) -> np.ndarray:
    """[F] the row of each feature in the table of genes, −1 for none."""
    place = np.full(len(ids), -1)
    for meaning, values in (("feature", ids), ("gene", ids), ("gene", entrez)):
        keys = values_of(genes, meaning)
        if keys is not None:
            first = pd.Series(np.arange(len(keys)), index=keys)
            first = first[~first.index.duplicated() & (first.index != "")]
            place = np.where(place < 0, first.reindex(values, fill_value=-1).to_numpy(), place)
    return place


def _join(ids: np.ndarray, symbols: np.ndarray) -> np.ndarray:
    names = np.where(symbols == "", ids, symbols)
    shared = pd.Index(names).duplicated(keep=False)
    return np.array(
        [
            f"g-{name}:{key}" if twice else f"g-{name}"
            for name, key, twice in zip(names, ids, shared, strict=True)
        ],
        object,
    )
