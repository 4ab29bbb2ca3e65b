import dataclasses

import keras
import numpy as np
import pytest

from moa_tf.config import override
from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.errors import InputError
from moa_tf.models.mlp import PRESETS
from moa_tf.models.tabular import TabularConfig, fit_preprocessing
from moa_tf.training.inference import Inference

SPEC = SignatureSpec(("g-0", "g-1", "g-2"), ("c-0", "c-1"), ())


def signatures(genes, cells):
    ids = np.array([f"s{i}" for i in range(len(genes))], object)
    return Signatures(SPEC, ids, np.float32(genes), np.float32(cells))


def test_scaled_features_are_cut_off_and_then_each_signature_standardised(tmp_path):
    # Means 0 and variances 1 over these rows, so that scaling changes nothing.
    train = signatures([[1, 1, 1], [-1, -1, -1]], [[1, -1], [-1, 1]])
    other = signatures([[9, 1, -1], [3, 3, 0]], [[0, 2], [9, -1]])
    config = TabularConfig(scaling="standard", clip=4.0)
    clipped = Inference(fit_preprocessing(train, config, 0))(other.inputs())["features"]
    np.testing.assert_allclose(clipped, [[4, 1, -1, 0, 2], [3, 3, 0, 4, -1]], atol=1e-5)
    model = fit_preprocessing(train, dataclasses.replace(config, row_standardise=True), 0)
    model.save(tmp_path / "p.keras")
    for each in (model, keras.saving.load_model(tmp_path / "p.keras")):
        # (4, 1, −1): mean 4/3, variance 38/9; (3, 3, 0): mean 2, variance 2; cells: variances 1 and 6.25. A quarter is
        # added to each. Genes and cells by themselves.
        np.testing.assert_allclose(
            Inference(each)(other.inputs())["features"],
            [
                [*(np.array([8, -1, -7]) / (38 + 9 / 4) ** 0.5), -1 / 1.25**0.5, 1 / 1.25**0.5],
                [*(np.array([1, 1, -2]) / 2.25**0.5), 2.5 / 6.5**0.5, -2.5 / 6.5**0.5],
            ],
            atol=1e-5,
        )


def test_a_cut_off_below_zero_is_one_line():
    with pytest.raises(InputError, match=r"^clip=-1\.0: expected at least 0$"):
        override(PRESETS["small"], ["clip=-1"])
