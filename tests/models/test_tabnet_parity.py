"""Parity with pytorch-tabnet 4.1 on the networks that fixtures/make_tabnet.py stored.

Run as a script it prints the largest differences as a table.
"""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from moa_tf.models.tabnet.network import TabNet, build_explainer

FIXTURES = Path(__file__).parent / "fixtures" / "tabnet.npz"
SETTINGS = {"n_d": 3, "n_a": 4, "gamma": 1.3, "momentum": 0.98, "virtual_batch_size": 8}
GROUPS = ((1, 4, 6), (0, 8))
CASES = [
    f"{mask}_{steps}_{kind}"
    for mask in ("sparsemax", "entmax")
    for steps in (1, 3)
    for kind in ("ungrouped", "grouped")
]


LAMBDA = 0.1


def build_case(case, lambda_sparse=LAMBDA):
    """The network of a case with PyTorch's weights, its inputs, and the stored arrays."""
    stored = read_case(case)
    targets = stored["y"].shape[1]
    if case == "categorical":
        settings = {
            **SETTINGS,
            "mask_type": "entmax",
            "n_steps": 3,
            "category_sizes": (3, 2),
            "embedding_dim": 2,
        }
        inputs = {"features": stored["x"][:, :7], "categories": stored["x"][:, 7:].astype("int32")}
    else:
        settings, inputs = case_settings(case), {"features": stored["x"]}
    network = TabNet(inputs["features"].shape[1], targets, lambda_sparse=lambda_sparse, seed=0, **settings)
    copy_weights(network, stored["weight"])
    return network, inputs, stored


def case_settings(case):
    mask, steps, kind = case.split("_")
    groups = GROUPS if kind == "grouped" else ()
    return {**SETTINGS, "mask_type": mask, "n_steps": int(steps), "groups": groups}


def read_case(case):
    """Arrays of a case by name; `weight`, `gradient` and `after` are dicts by PyTorch's names."""
    with np.load(FIXTURES) as stored:
        arrays = {name.split("/")[1]: stored[name] for name in stored if name.startswith(f"{case}/")}
    # Groups that are named come first here, embeddings among them; theirs come in the order of the columns.
    order = [7, 8, 0, 1, 2, 3, 4, 5, 6] if case == "categorical" else slice(None)
    for kind in ("weight", "gradient", "after"):
        values, tensors, start = arrays[f"{kind}_values"], {}, 0
        for line in str(arrays[f"{kind}_names"]).split("\n"):
            name, *shape = line.split()
            size = int(np.prod([int(n) for n in shape]))
            tensor = values[start : start + size].reshape([int(n) for n in shape])
            tensors[name] = tensor[order] if "att_transformers" in name else tensor
            start += size
        arrays[kind] = tensors
    return arrays


def counterparts(network):
    """(variable, PyTorch's name, whether PyTorch stores it transposed) for every variable of a `TabNet`."""
    encoder = network.get_layer("encoder")
    prefix = "tabnet.encoder"
    yield from _normalisation(encoder.normalization, f"{prefix}.initial_bn")
    for index, kernel in enumerate(encoder.shared):
        yield kernel.kernel, f"{prefix}.initial_splitter.shared.shared_layers.{index}.weight", True
    for step, transformer in enumerate(encoder.transformers):
        place = f"{prefix}.feat_transformers.{step - 1}" if step else f"{prefix}.initial_splitter"
        shared = len(transformer.shared)
        for index, block in enumerate(transformer.blocks):
            part = (
                f"shared.glu_layers.{index}" if index < shared else f"specifics.glu_layers.{index - shared}"
            )
            if index >= shared:
                yield block.kernel.kernel, f"{place}.{part}.fc.weight", True
            yield from _normalisation(block.normalization, f"{place}.{part}.bn.bn")
    for step, attentive in enumerate(encoder.attention):
        yield attentive.kernel, f"{prefix}.att_transformers.{step}.fc.weight", True
        yield from _normalisation(attentive.normalization, f"{prefix}.att_transformers.{step}.bn.bn")
    yield network.get_layer("logits").kernel, "tabnet.final_mapping.weight", True
    if any(layer.name == "embedding" for layer in network.layers):
        for index, table in enumerate(network.get_layer("embedding").tables):
            yield table, f"embedder.embeddings.{index}.weight", False


def _normalisation(layer, name):
    yield layer.gamma, f"{name}.weight", False
    yield layer.beta, f"{name}.bias", False
    yield layer.moving_mean, f"{name}.running_mean", False
    yield layer.moving_variance, f"{name}.running_var", False


def copy_weights(network, weights):
    """Assigns every stored weight; fails unless each is used once and every variable but the bias is set."""
    pairs = list(counterparts(network))
    assert sorted(name for _, name, _ in pairs) == sorted(weights)
    assert len({id(variable) for variable, _, _ in pairs}) == len(network.weights) - 1
    for variable, name, transposed in pairs:
        variable.assign(weights[name].T if transposed else weights[name])


@pytest.mark.parametrize("case", [*CASES, "categorical"])
def test_inference_equals_pytorch_tabnet(case):
    network, inputs, stored = build_case(case)
    explained = build_explainer(network)(inputs, training=False)
    for name in ("logits", "masks", "importance"):
        np.testing.assert_allclose(explained[name], stored[name], rtol=1e-5, atol=1e-5, err_msg=name)
    network(inputs, training=False)
    # PyTorch's loss is cross entropy - lambda * M_loss, so M_loss is minus the entropy.
    np.testing.assert_allclose(sum(network.losses), -LAMBDA * stored["m_loss"], atol=1e-6)


def train_step(network, inputs, labels):
    with tf.GradientTape() as tape:
        logits = network(inputs, training=True)
        loss = keras.losses.BinaryCrossentropy(from_logits=True)(labels, logits) + sum(network.losses)
    return logits, loss, tape.gradient(loss, [variable.value for variable in network.trainable_variables])


def check_training_step(network, stored, logits, loss, gradients):
    np.testing.assert_allclose(logits, stored["train_logits"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(loss, stored["loss"], atol=1e-5)
    by_id = {id(v): g for v, g in zip(network.trainable_variables, gradients, strict=True)}
    compared = 0
    for variable, name, transposed in counterparts(network):
        if name in stored["gradient"]:
            gradient, expected = tf.convert_to_tensor(by_id[id(variable)]), stored["gradient"][name]
            expected = expected.T if transposed else expected
            np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4, err_msg=name)
        else:
            np.testing.assert_allclose(variable, stored["after"][name], rtol=1e-5, atol=1e-5, err_msg=name)
        compared += 1
    assert compared == len(network.weights) - 1


@pytest.mark.parametrize("case", [*CASES, "categorical"])
def test_training_step_equals_pytorch_tabnet(case):
    network, inputs, stored = build_case(case)
    check_training_step(network, stored, *train_step(network, inputs, stored["y"]))


@pytest.mark.parametrize(
    ("case", "jit_compile"),
    [
        ("entmax_1_ungrouped", False),
        ("entmax_1_ungrouped", True),
        pytest.param("sparsemax_3_grouped", True, marks=pytest.mark.slow),
    ],
)
def test_training_step_in_a_graph_of_unknown_batch_size_equals_pytorch_tabnet(case, jit_compile):
    network, inputs, stored = build_case(case)
    spec = {name: tf.TensorSpec([None, *value.shape[1:]], value.dtype) for name, value in inputs.items()}
    step = tf.function(
        lambda x: train_step(network, x, stored["y"]), input_signature=[spec], jit_compile=jit_compile
    )
    check_training_step(network, stored, *step(inputs))


def difference(a, b):
    """Largest |a - b| / (1 + |b|)."""
    b = np.asarray(b)
    return (np.abs(np.asarray(tf.convert_to_tensor(a)) - b) / (1 + np.abs(b))).max()


def differences(case):
    """Of logits, masks, importance, sparsity loss, gradients, moving statistics."""
    network, inputs, stored = build_case(case)
    explained = build_explainer(network)(inputs, training=False)
    row = [difference(explained[name], stored[name]) for name in ("logits", "masks", "importance")]
    network(inputs, training=False)
    row.append(difference(sum(network.losses), -LAMBDA * stored["m_loss"]))
    _, _, gradients = train_step(network, inputs, stored["y"])
    by_id = {id(v): g for v, g in zip(network.trainable_variables, gradients, strict=True)}
    parts = {"gradient": [], "after": []}
    for variable, name, transposed in counterparts(network):
        kind = "gradient" if name in stored["gradient"] else "after"
        expected = stored[kind][name]
        value = by_id[id(variable)] if kind == "gradient" else variable
        parts[kind].append(difference(value, expected.T if transposed else expected))
    return [*row, max(parts["gradient"]), max(parts["after"])]


if __name__ == "__main__":
    print("| case | logits | masks | importance | sparsity loss | gradients | moving statistics |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for case in [*CASES, "categorical"]:
        print(f"| {case.replace('_', ', ')} |", " | ".join(f"{x:.0e}" for x in differences(case)), "|")
