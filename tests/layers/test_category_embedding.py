import numpy as np
import pytest
import tensorflow as tf

from moa_tf.errors import InputError
from moa_tf.layers import CategoryEmbedding, NearestIndex


def test_each_column_has_its_own_table_and_the_seed_repeats_them():
    layer, again, other = (CategoryEmbedding((3, 3), 2, seed=seed) for seed in (1, 1, 2))
    rows = np.array([[0, 0], [2, 1]])
    result = np.asarray(layer(rows))
    first, second = (np.asarray(table) for table in layer.tables)
    np.testing.assert_array_equal(result, [[*first[0], *second[0]], [*first[2], *second[1]]])
    assert (first != second).all()
    np.testing.assert_array_equal(again(rows), result)
    assert (np.asarray(other(rows)) != result).all()


def test_another_number_of_columns_is_refused():
    with pytest.raises(InputError, match="expected 2 columns"):
        CategoryEmbedding((3, 3))(np.zeros((4, 3), "int32"))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_finds_every_category_that_comes_as_a_float(policy):
    # 257 is 256 in bfloat16, 2049 is 2048 in float16.
    layer = CategoryEmbedding((3000,), 1, dtype=policy)
    rows = np.array([[256], [257], [2048], [2049]])
    result = layer(rows.astype("float32"))
    assert result.dtype == layer.compute_dtype
    np.testing.assert_array_equal(result, layer(rows))
    expected = tf.cast(np.asarray(layer.tables[0])[rows[:, 0]], layer.compute_dtype)
    np.testing.assert_array_equal(tf.cast(result, "float32"), tf.cast(expected, "float32"))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_nearest_index(policy):
    # 1000 and 1001 are one number in bfloat16; ties go to the first.
    layer = NearestIndex((1000, 1001, 1003), dtype=policy)
    found = np.asarray(layer(np.array([0, 1000, 1001, 1002, 1002.5, 9999], "float32")))
    np.testing.assert_array_equal(found, [[0], [0], [1], [1], [2], [2]])
