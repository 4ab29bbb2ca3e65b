"""What layers with adapt() share: they learn from whole tables, compute nothing before, and carry it in their files."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from moa_tf.errors import InputError


class AdaptedLayer(keras.layers.Layer):
    """Base of the layers that adapt() fits to the training rows.

    Weights start as NaN, so that nothing computed from unset ones can pass for a result. That adapt() was called is
    in the config, for clones that get their weights by `set_weights`; and it is seen from the weights of a file,
    those of earlier versions included, whose configs do not tell.

    Values are computed in float32 at least and returned in the compute dtype: under a mixed policy inputs keep
    their digits.

    Functions that were traced before a second adapt() keep the first: compile the model again, as with Keras's own
    layers of this kind.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.autocast = False
        self._adapted = False

    @property
    def is_adapted(self) -> bool:
        """Whether adapt() was called, here or before the layer was saved."""
        return self._adapted

    def _require_adapted(self) -> None:
        if not self.is_adapted:
            raise InputError(f"{self._who}: is used before adapt(); call adapt() on the training rows first")

    @property
    def _who(self) -> str:
        return f"{type(self).__name__} {self.name}"

    def _table(self, data: Any, rank: int = 2, least_rows: int = 1, dtype: Any = None) -> np.ndarray:
        """What adapt() got, as [N, F] or [N] finite numbers.

        Raises:
            InputError: another rank, too few rows, no features, or what is not a finite number.
        """
        table = np.asarray(ops.convert_to_numpy(data) if ops.is_tensor(data) else data)
        if table.dtype.name in ("float16", "bfloat16"):
            table = table.astype(np.float32)
        expected = "[N, F]" if rank == 2 else "[N]"
        if table.ndim != rank or 0 in table.shape[1:]:
            raise InputError(f"{self._who}: adapt() on data of shape {table.shape}, expected {expected}")
        if len(table) < least_rows:
            raise InputError(f"{self._who}: adapt() on {len(table)} rows, expected at least {least_rows}")
        if table.dtype.kind not in "biuf":
            raise InputError(f"{self._who}: adapt() on data of type {table.dtype}, expected numbers")
        if dtype is None and table.dtype.kind != "f":
            dtype = np.float64
        table = table.astype(dtype or table.dtype, copy=False)
        bad = ~np.isfinite(table)
        if bad.any():
            row, *column = np.argwhere(bad)[0]
            place = f"row {row}" + "".join(f", column {index}" for index in column)
            raise InputError(
                f"{self._who}: adapt() on {bad.sum()} values that are not finite, first in {place}; "
                "expected finite numbers"
            )
        return table

    def _weight(
        self, name: str, shape: tuple[int, ...], dtype: str | None = None, unset: float = np.nan
    ) -> Any:
        dtype = dtype or keras.backend.result_type(self.variable_dtype, "float32")
        initializer = keras.initializers.Constant(unset)
        return self.add_weight(
            name=name, shape=shape, dtype=dtype, initializer=initializer, trainable=False, autocast=False
        )

    def _expect_features(self, input_shape: tuple[int | None, ...]) -> int:
        """The number of features, to which all calls are then held."""
        features = input_shape[-1]
        if features is None:
            raise InputError(
                f"{self._who}: input of shape {input_shape}, expected a known number of features"
            )
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: features})
        return features

    def _build_for(self, features: int, **sizes: int) -> None:
        """Builds the layer for `features` and with the attributes `sizes`, or anew where it was built for others.

        Raises:
            InputError: the layer is part of a model already, which was made for others.
        """
        built = self.input_spec.axes[-1] if self.built else features
        old = {name: getattr(self, name) for name in sizes}
        if self.built and (features, sizes) == (built, old):
            return
        self._require_free({"features": built} | old, {"features": features} | sizes)
        if self.built:
            for weight in self.weights:
                self._untrack_variable(weight)
            self._tracker.unlock()
            self.built = False
        for name, value in sizes.items():
            setattr(self, name, value)
        self.build((None, features))

    def _require_free(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        """Raises InputError if the layer is part of a model that counts on the old values of what is now new."""
        changed = [name for name in new if new[name] != old[name] and not self._may_change(name)]
        if self._inbound_nodes and changed:
            name = changed[0]
            raise InputError(
                f"{self._who}: is part of a model made for {name}={old[name]}, and adapt() would make them "
                f"{new[name]}; expected an adapt() before the model is made, or a new layer"
            )

    def _may_change(self, name: str) -> bool:
        """Whether a model around the layer does not mind another value of its attribute `name`."""
        return False

    def _wide(self, inputs: Any) -> Any:
        return ops.cast(inputs, keras.backend.result_type(self.compute_dtype, "float32"))

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        if self.weights:
            self._adapted = not any(np.isnan(ops.convert_to_numpy(weight)).any() for weight in self.weights)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "adapted": self.is_adapted}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AdaptedLayer:
        config = dict(config)
        adapted = config.pop("adapted", False)
        layer = super().from_config(config)
        layer._adapted = adapted
        return layer
