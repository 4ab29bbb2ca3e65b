"""Parity with the authors' PyTorch package on the networks that fixtures/make_tabm.py stored.

Run as a script it prints the largest differences as a table.
"""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from moa_tf.models.tabm import TabMConfig, build, training_output
from moa_tf.training.losses import SmoothedBinaryCrossentropy

FIXTURES = Path(__file__).parent / "fixtures" / "tabm.npz"
CASES = ("1 block", "3 blocks")
BLOCK = {"kernel": "weight", "r": "r", "s": "s", "bias": "bias"}


def build_case(case):
    """The network of a case with PyTorch's weights, and the stored arrays by name."""
    with np.load(FIXTURES) as file:
        stored = {name.split("/")[1]: file[name] for name in file if name.startswith(f"{case}/")}
    units = [len(value) for name, value in stored.items() if name.startswith("weight") and "0.weight" in name]
    inputs = keras.Input(stored["x"].shape[1:], name="features")
    config = TabMConfig(hidden=tuple(units), dropout=0.0, k=stored["members"].shape[1])
    prior = np.full(stored["y"].shape[1], 0.5)
    network = build(keras.Model(inputs, {"features": inputs}), config, prior, seed=0)
    pairs = list(counterparts(network))
    assert sorted(f"weight {name}" for _, name, _ in pairs) == sorted(n for n in stored if n[:6] == "weight")
    assert [id(variable) for variable, _, _ in pairs] == [id(variable) for variable in network.weights]
    for variable, name, transposed in pairs:
        value = stored[f"weight {name}"]
        variable.assign(value.T if transposed else value)
    return network, stored


def counterparts(network):
    """(variable, PyTorch's name, whether PyTorch stores it transposed) for every variable."""
    for place, layer in enumerate(network.get_layer("blocks").blocks):
        for ours, theirs in BLOCK.items():
            yield getattr(layer, ours), f"backbone.blocks.{place}.0.{theirs}", ours == "kernel"
    head = network.get_layer("members")
    yield head.kernel, "output.weight", False
    yield head.bias, "output.bias", False


def training_step(network, stored):
    """Members' logits, loss, and (gradient, PyTorch's) for every variable."""
    model = keras.Model(network.input, training_output(network))
    with tf.GradientTape() as tape:
        members = model({"features": stored["x"]}, training=True)
        loss = SmoothedBinaryCrossentropy()(stored["y"], members)
    gradients = tape.gradient(loss, [variable.value for variable in network.weights])
    pairs = []
    for gradient, (_, name, transposed) in zip(gradients, counterparts(network), strict=True):
        theirs = stored[f"gradient {name}"]
        pairs.append((np.asarray(gradient), theirs.T if transposed else theirs))
    return np.asarray(members), float(loss), pairs


def predict(network, stored):
    return np.asarray(keras.ops.sigmoid(network({"features": stored["x"]}, training=False)))


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_equal_the_authors(case):
    network, stored = build_case(case)
    members, loss, gradients = training_step(network, stored)
    np.testing.assert_allclose(members, stored["members"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(predict(network, stored), stored["probabilities"], rtol=1e-5, atol=1e-6)
    assert loss == pytest.approx(float(stored["loss"]), rel=1e-5)
    for ours, theirs in gradients:
        assert np.abs(theirs).max() > 1e-4
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def difference(a, b):
    """Largest |a - b| / (1 + |b|)."""
    return (np.abs(a - b) / (1 + np.abs(b))).max()


if __name__ == "__main__":
    print("| case | members' logits | probabilities | loss | gradients |")
    print("| --- | --- | --- | --- | --- |")
    for case in CASES:
        network, stored = build_case(case)
        members, loss, gradients = training_step(network, stored)
        row = [
            difference(members, stored["members"]),
            difference(predict(network, stored), stored["probabilities"]),
            difference(loss, float(stored["loss"])),
            max(difference(*pair) for pair in gradients),
        ]
        print(f"| {case} |", " | ".join(f"{x:.0e}" for x in row), "|")
