import dataclasses

import keras
import numpy as np
import pytest

from moa_tf.errors import InputError
from moa_tf.layers.tabnet_decoder import ReconstructionError
from moa_tf.models.base import Hyperparameters
from moa_tf.models.tabnet import FAMILY, TabNet, TabNetConfig
from moa_tf.training import pretraining


def correlated_features(rows, seed):
    """8 features that two hidden factors determine, so that hidden ones can be worked out from the others."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(2, 8))
    values = generator.normal(size=(rows, 2)) @ mixing + 0.05 * generator.normal(size=(rows, 8))
    return {"features": values.astype("float32")}


RECIPE = dataclasses.replace(FAMILY.presets["winners"].recipe, batch_size=256, pretrain_epochs=25)
CONFIG = TabNetConfig(n_d=8, n_a=8, virtual_batch_size=64, pretrain_ratio=0.3, momentum=0.9)


def pretrain(network, features, seed, epochs=25):
    recipe = dataclasses.replace(RECIPE, pretrain_epochs=epochs)
    return pretraining.pretrain(FAMILY, network, features, Hyperparameters(CONFIG, recipe), seed)


def make_network(seed=1, **settings):
    return TabNet(8, 2, n_d=8, n_a=8, virtual_batch_size=64, momentum=0.9, seed=seed, **settings)


def test_reconstruction_error_by_hand():
    x = np.array([[0.0, 5.0], [2.0, 5.0]], "float32")
    guess = np.array([[1.0, 9.0], [0.0, 7.0]], "float32")
    hidden = np.array([[1.0, 0.0], [1.0, 1.0]], "float32")
    # The first feature's variance is 1; the second is constant and counts with 1.
    errors = ReconstructionError()(guess, x, hidden)
    np.testing.assert_allclose(errors, [1.0, (4.0 + 4.0) / 2])


@pytest.mark.slow
def test_pretraining_learns_and_its_encoder_goes_into_a_new_network():
    features = correlated_features(1024, 3)
    network = make_network()
    before = network.get_weights()
    pretrained = pretrain(network, features, 5)
    assert pretrained.loss[-1] < 0.6 * pretrained.loss[0]
    assert pretrained.loss[-1] < 0.9
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    fresh = make_network(seed=2)
    head = fresh.get_layer("logits").get_weights()
    pretrained.initialise(fresh)
    for loaded, expected in zip(
        fresh.get_layer("encoder").get_weights(), pretrained.weights["encoder"], strict=True
    ):
        np.testing.assert_array_equal(loaded, expected)
    for old, new in zip(head, fresh.get_layer("logits").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_equal_seeds_give_equal_pretraining():
    features = correlated_features(256, 3)
    first, second = (pretrain(make_network(), features, 5, 2) for _ in range(2))
    np.testing.assert_allclose(first.loss, second.loss, rtol=1e-5)
    third = pretrain(make_network(), features, 6, 2)
    assert abs(third.loss[0] - first.loss[0]) > 1e-4


@pytest.mark.slow
def test_categories_and_groups_are_hidden_whole():
    generator = np.random.default_rng(0)
    features = correlated_features(128, 1) | {
        "categories": generator.integers(0, 2, (128, 2)).astype("int32")
    }
    network = make_network(category_sizes=(2, 2), embedding_dim=3, groups=[(0, 3)])
    pretrained = pretrain(network, features, 5, 1)
    assert set(pretrained.weights) == {"encoder", "embedding"}
    assert np.isfinite(pretrained.loss).all()


@pytest.mark.slow
def test_wrong_networks_are_refused_in_one_line():
    features = correlated_features(64, 1)
    pretrained = pretrain(make_network(), features, 5, 1)
    with pytest.raises(InputError, match="no layer encoder of the same shapes"):
        pretrained.initialise(make_network(n_steps=2))
    inputs = keras.Input((8,), name="features")
    other = keras.Model({"features": inputs}, keras.layers.Dense(2)(inputs), name="mlp")
    with pytest.raises(InputError, match="no TabNet encoder"):
        pretrain(other, features, 5, 1)
