"""Missing values: the training rows' medians stand in for them, in the graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.data.schema import SignatureSpec
from moa_tf.errors import InputError
from moa_tf.preprocessing.adapted import AdaptedLayer


@keras.saving.register_keras_serializable(package="moa_tf")
class MedianImputation(AdaptedLayer):
    """Puts each feature's median over the training rows in the place of NaN.

    A feature of which more than `max_missing` is missing in the training rows, or all, is not used: it becomes 0 in
    every row, a constant, which what follows drops as it drops every feature that does not vary.

    Args:
        max_missing: the largest share of missing values with which a feature is still used.

    Call arguments:
        inputs: [B, F] float, NaN for a missing value.

    Returns:
        [B, F] without NaN.

    Raises:
        InputError: called before adapt().

    Examples:
        >>> import numpy as np
        >>> layer = MedianImputation()
        >>> layer.adapt(np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, 5.0]], "float32"))
        >>> np.array(layer(np.array([[np.nan, 7.0]], "float32"))).tolist()
        [[2.0, 0.0]]
    """

    def __init__(self, max_missing: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= max_missing <= 1:
            raise InputError(f"max_missing={max_missing}: expected in [0, 1]")
        self.max_missing = float(max_missing)

    def build(self, input_shape: Sequence[int | None]) -> None:
        features = self._expect_features(input_shape)
        self.median = self._weight("median", (features,))
        self.used = self._weight("used", (features,))

    def adapt(self, data: np.ndarray) -> None:
        """Takes the medians of [N, F] training rows; a second time as if it were the first.

        Raises:
            InputError: no rows, another rank, or infinite values.
        """
        data = np.asarray(data, np.float32)
        missing = np.isnan(data)
        self._table(np.where(missing, 0, data))
        self._build_for(data.shape[1])
        share = missing.mean(axis=0)
        used = (share <= self.max_missing) & (share < 1)
        median = np.zeros(data.shape[1], np.float32)
        if used.any():
            median[used] = np.nanmedian(data[:, used], axis=0)
        self.median.assign(median)
        self.used.assign(used.astype(np.float32))
        self._adapted = True

    @property
    def dropped(self) -> np.ndarray:
        """Indices of the features that are not used."""
        return np.flatnonzero(ops.convert_to_numpy(self.used) == 0)

    def call(self, inputs: Any) -> Any:
        self._require_adapted()
        x = self._wide(inputs)
        # What is not used has the median 0.
        stands_in = ops.logical_or(ops.isnan(x), ops.equal(self.used, 0.0))
        return ops.cast(ops.where(stands_in, ops.convert_to_tensor(self.median), x), self.compute_dtype)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "max_missing": self.max_missing}


def dropped_features(preprocessing: keras.Model, spec: SignatureSpec) -> Iterator[str]:
    """A line for each kind of which features are not used, as too much of them is missing in the training rows."""
    names = {"genes_filled": spec.genes, "cells_filled": spec.cells}
    for layer in preprocessing.layers:
        if isinstance(layer, MedianImputation) and len(layer.dropped):
            lost = [names[layer.name][place] for place in layer.dropped]
            shown = ", ".join(lost[:5]) + (", …" if len(lost) > 5 else "")
            yield (
                f"{len(lost)} of {len(names[layer.name])} {layer.name.removesuffix('_filled')} are "
                f"not used, as over {layer.max_missing:.0%} of their training values are missing ({shown})"
            )
