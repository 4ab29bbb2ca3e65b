import numpy as np

from moa_tf.layers import RandomGroupMask


def test_a_mask_hides_its_share_of_each_row_and_differs_between_steps():
    layer = RandomGroupMask(500, 0.2, seed=1)
    first, second = (np.asarray(layer(np.zeros((400, 3), "float32"))) for _ in range(2))
    assert set(np.unique(first)) == {0.0, 1.0}
    # 200,000 draws: a standard error of 0.0009; of a row's 500, 0.018.
    assert abs(first.mean() - 0.2) < 0.005
    assert np.abs(first.mean(axis=1) - 0.2).max() < 0.09
    assert (first != second).any()
    np.testing.assert_array_equal(RandomGroupMask(500, 0.2, seed=1)(np.zeros((400, 3))), first)
