import pathlib

import keras
import numpy as np
import pytest

from moa_tf.preprocessing.image import FeatureImage, SwapNoise
from moa_tf.preprocessing.image_scaling import MinMaxScaling, Norm2Scaling

FIXTURE = np.load(pathlib.Path(__file__).parent / "fixtures" / "deepinsight.npz")
numpy = keras.ops.convert_to_numpy


def test_grey_images_are_pydeepinsights():
    layer = FeatureImage(FIXTURE["clusters/round/24"], 24, "grey")
    images = numpy(layer(FIXTURE["image/values"].astype("float32")))
    np.testing.assert_allclose(images, FIXTURE["image/grey"], atol=1e-6)


def test_channels_are_mean_minimum_and_maximum_of_a_shared_pixel():
    layer = FeatureImage([[0, 1], [1, 0], [0, 1], [0, 1]], 2)
    image = numpy(layer(np.array([[0.3, 0.8, 0.0, 0.9]], "float32")))[0]
    expected = np.zeros((2, 2, 3))
    expected[0, 1] = [0.4, 0.0, 0.9]
    expected[1, 0] = 0.8
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_images_of_a_full_sized_map_agree_with_a_plain_loop():
    rng = np.random.default_rng(0)
    pixels, values = rng.integers(0, 20, (500, 2)), rng.uniform(size=(5, 500)).astype("float32")
    expected = np.zeros((5, 20, 20, 3), "float32")
    for row, column in np.unique(pixels, axis=0):
        shared = values[:, (pixels == (row, column)).all(1)]
        expected[:, row, column] = np.stack([shared.mean(1), shared.min(1), shared.max(1)], 1)
    np.testing.assert_allclose(numpy(FeatureImage(pixels, 20)(values)), expected, atol=1e-6)


def test_the_image_layer_takes_any_batch_and_survives_saving(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 9, (12, 2))
    inputs = keras.Input((12,))
    model = keras.Model(inputs, FeatureImage(pixels, 9, "grey")(inputs))
    assert model.output_shape == (None, 9, 9, 3)
    model.save(tmp_path / "image.keras")
    loaded = keras.saving.load_model(tmp_path / "image.keras")
    for rows in (1, 3, 5):
        values = np.random.default_rng(rows).uniform(size=(rows, 12)).astype("float32")
        images = loaded.predict(values, verbose=0)
        assert images.shape == (rows, 9, 9, 3)
        np.testing.assert_array_equal(images, model.predict(values, verbose=0))


@pytest.mark.parametrize("pixels", [[[0, 4]], [[-1, 0]], [0, 1, 2]])
def test_pixels_outside_of_the_image_are_refused(pixels):
    with pytest.raises(ValueError, match="within 4 x 4"):
        FeatureImage(pixels, 4)


def test_half_precision_images():
    layer = FeatureImage([[0, 0], [1, 1]], 2, dtype="mixed_bfloat16")
    image = layer(np.array([[0.5, 0.25]], "float32"))
    assert keras.backend.standardize_dtype(image.dtype) == "bfloat16"
    np.testing.assert_array_equal(numpy(image).astype("float32")[0, 1, 1], [0.25] * 3)


def test_norm2_is_pydeepinsights():
    layer = Norm2Scaling()
    layer.adapt(FIXTURE["norm2/train"].astype("float32"))
    scaled = numpy(layer(FIXTURE["norm2/test"].astype("float32")))
    np.testing.assert_allclose(scaled, FIXTURE["norm2/scaled"], atol=1e-6)


def test_norm2_by_hand():
    layer = Norm2Scaling()
    layer.adapt(np.array([[-1.0, 2.0], [3.0, 5.0]], "float32"))
    # Minima -1 and 2; arguments 3+1+1 and 5+2+1, of which the second is largest over all.
    scaled = numpy(layer(np.array([[-1.0, 2.0], [3.0, 5.0], [-50.0, 900.0]], "float32")))
    logarithms = np.array([[0, np.log(5)], [np.log(5), np.log(8)], [0, np.log(8)]])
    np.testing.assert_allclose(scaled, logarithms / np.log(8), atol=1e-6)


def test_min_max_by_hand():
    layer = MinMaxScaling()
    layer.adapt(np.array([[-1.0, 2.0, 7.0], [3.0, 6.0, 7.0]], "float32"))
    scaled = numpy(layer(np.array([[0.0, 9.0, 8.0], [-2.0, 3.0, 7.0]], "float32")))
    np.testing.assert_allclose(scaled, [[0.25, 1, 0], [0, 0.25, 0]], atol=1e-6)


@pytest.mark.parametrize("scaling", [Norm2Scaling, MinMaxScaling])
def test_scalings_survive_saving(scaling, tmp_path):
    rng = np.random.default_rng(0)
    inputs = keras.Input((6,))
    layer = scaling()
    model = keras.Model(inputs, layer(inputs))
    layer.adapt(rng.normal(size=(40, 6)))
    model.save(tmp_path / "scaling.keras")
    values = rng.normal(size=(9, 6)).astype("float32")
    loaded = keras.saving.load_model(tmp_path / "scaling.keras")
    assert np.ptp(numpy(model(values))) > 0.3
    np.testing.assert_array_equal(numpy(loaded(values)), numpy(model(values)))


def test_swap_noise_takes_a_portion_of_features_from_one_other_signature():
    batch, count = 400, 500
    rows = np.repeat(np.arange(batch, dtype="float32")[:, None], count, axis=1)
    noisy = numpy(SwapNoise(rate=0.3, portion=0.2, seed=1)(rows, training=True))
    swapped = noisy != rows
    touched = swapped.any(axis=1)
    # Standard errors 0.023 and 0.0017: four of them on either side.
    assert abs(touched.mean() - 0.3) < 0.09
    assert abs(swapped[touched].mean() - 0.2) < 0.007
    for row in np.flatnonzero(touched):
        assert len(np.unique(noisy[row][swapped[row]])) == 1


def test_swap_noise_keeps_each_feature_in_its_column():
    values = np.arange(12, dtype="float32").reshape(4, 3)
    noisy = numpy(SwapNoise(rate=1.0, portion=1.0, seed=0)(values, training=True))
    np.testing.assert_array_equal(noisy % 3, values % 3)


def test_swap_noise_is_off_outside_of_training_and_follows_its_seed():
    values = np.random.default_rng(0).normal(size=(50, 20)).astype("float32")
    np.testing.assert_array_equal(numpy(SwapNoise(1.0, 0.5, seed=3)(values)), values)
    first, second, other = (
        numpy(SwapNoise(1.0, 0.5, seed=seed)(values, training=True)) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    layer = SwapNoise(1.0, 0.5, seed=3)
    assert (numpy(layer(values, training=True)) != numpy(layer(values, training=True))).any()
    with pytest.raises(ValueError, match=r"rate=1\.5"):
        SwapNoise(1.5)


def test_swap_noise_takes_donors_from_the_whole_batch():
    rows = np.arange(400, dtype="float32")[:, None]
    donors = numpy(SwapNoise(rate=1.0, portion=1.0, seed=1)(rows, training=True))[:, 0]
    # Uniform on 0 to 399: mean 199.5 with a standard error of 5.8.
    assert abs(donors.mean() - 199.5) < 25
    assert donors.min() < 20
    assert donors.max() > 380
