import dataclasses
import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from moa_tf.config import override
from moa_tf.data.schema import Dataset, Signatures, SignatureSpec
from moa_tf.data.simulate import simulate
from moa_tf.errors import InputError
from moa_tf.models.base import Member, get_family, importance_columns
from moa_tf.models.integrated_gradients import explainer, fit_baseline
from moa_tf.preprocessing.inputs import make_inputs
from moa_tf.training.fold import make_fold
from moa_tf.training.inference import Inference
from moa_tf.training.network import NetworkData, train_network
from moa_tf.training.strategy import make_placement

numpy = keras.ops.convert_to_numpy
SPEC = SignatureSpec(("g-0", "g-1", "g-2"), ("c-0", "c-1"), ("cp_type", "cp_time", "cp_dose"))
WEIGHTS = np.array([[1, -2, 0.5, 4, 0, 0.02], [3, 1, -1, 0, 2, 0.01]], "float32").T  # genes, cells, hours


def rows(count, seed=0):
    rng = np.random.default_rng(seed)
    return Signatures(
        SPEC,
        np.array([f"s{i}" for i in range(count)], object),
        rng.normal(size=(count, 3)).astype("float32"),
        rng.normal(size=(count, 2)).astype("float32"),
        np.zeros(count, "int32"),
        rng.choice([24, 48, 72], count).astype("float32"),
        rng.integers(0, 2, count).astype("int32"),
    )


def linear(scale, baseline):
    """Genes, cells and hours times weights; dose is not read."""
    inputs = make_inputs(SPEC, ("genes", "cells", "cp_time"))
    hours = keras.layers.Reshape((1,))(inputs["cp_time"])
    joined = keras.layers.Concatenate()([inputs["genes"], inputs["cells"], hours])
    features = {"x": keras.Input((6,), name="x")}
    network = keras.Model(features, keras.layers.Dense(2, use_bias=False)(features["x"]))
    network.set_weights([scale * WEIGHTS])
    return Member(keras.Model(inputs, {"x": joined}), [network], baseline)


def explain(members, signatures):
    inputs = {name: keras.ops.convert_to_tensor(value) for name, value in signatures.inputs().items()}
    function = explainer(members)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        function = tf.function(function)
    return {name: numpy(value) for name, value in function(inputs).items()}


def test_a_linear_models_attributions_are_its_weights_times_the_way():
    signatures = rows(6)
    baselines = [fit_baseline(rows(9, seed)) for seed in (1, 2)]
    members = [linear(scale, baseline) for scale, baseline in zip((1.0, 3.0), baselines, strict=True)]
    outputs = explain(members, signatures)
    x = np.concatenate([signatures.genes, signatures.cells, signatures.cp_time[:, None]], 1)
    logits = [x @ (scale * WEIGHTS) for scale in (1, 3)]
    target = np.mean([1 / (1 + np.exp(-each)) for each in logits], 0).argmax(1)
    assert set(target) == {0, 1}
    np.testing.assert_array_equal(outputs["target"], target)
    expected, starts = [], []
    for scale, baseline in zip((1, 3), baselines, strict=True):
        start = np.concatenate([baseline["genes"], baseline["cells"], baseline["cp_time"][None]])
        expected.append((x - start) * scale * WEIGHTS.T[target])
        starts.append(start @ (scale * WEIGHTS)[:, target])
    # The dose, the last column, moves nothing.
    wanted = np.pad(np.mean(expected, 0), ((0, 0), (0, 1)))
    assert outputs["attribution"].shape == (6, len(importance_columns(SPEC)))
    np.testing.assert_allclose(outputs["attribution"], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs["importance"], np.abs(outputs["attribution"]))
    np.testing.assert_allclose(outputs["baseline_logit"], np.mean(starts, 0), rtol=1e-4, atol=1e-5)
    logit = np.mean(logits, 0)[np.arange(6), target]
    np.testing.assert_allclose(outputs["logit"], logit, rtol=1e-4, atol=1e-5)


def test_the_baseline_is_the_median_signature():
    spec = SignatureSpec(
        ("g-0", "g-1"), (), ("cp_type", "cp_time", "cp_dose", "cp_cell"), (), ("A", "B"), True
    )
    nan = np.nan
    signatures = Signatures(
        spec,
        np.arange(4).astype(object),
        np.array([[1, nan], [2, nan], [nan, nan], [9, nan]], "float32"),
        None,
        np.zeros(4, "int32"),
        np.array([24, 24, 72, 72], "float32"),
        np.array([nan, 1, 10, 100], "float32"),
        np.array([-1, -1, -1, 1], "int32"),
    )
    baseline = fit_baseline(signatures)
    assert list(baseline) == ["genes", "cp_time", "cp_dose", "cp_cell"]
    assert baseline["genes"].tolist() == [2.0, 0.0]
    # An hour that was measured, not the 48 between; cell line B, as the others are not known.
    assert [float(baseline[name]) for name in ("cp_time", "cp_dose", "cp_cell")] == [24, 10, 1]
    assert {name: value.dtype.name for name, value in baseline.items()} == {
        "genes": "float32",
        "cp_time": "float32",
        "cp_dose": "float32",
        "cp_cell": "int32",
    }
    levels = dataclasses.replace(
        signatures,
        spec=dataclasses.replace(spec, doses=("D1", "D2")),
        cp_dose=np.array([1, 0, 1, -1], "int32"),
    )
    assert fit_baseline(levels)["cp_dose"] == 1


def test_models_without_a_baseline_are_refused_in_one_line():
    with pytest.raises(InputError, match="without the baseline") as error:
        explainer([linear(1.0, {})])
    assert "\n" not in str(error.value)


def panel(dataset):
    """Viability alone, with gaps and saturated values, doses in µM and cell lines that nobody knows."""
    rng = np.random.default_rng(0)
    cells = np.clip(dataset.signatures.cells, -1.0, 1.0)
    cells[rng.random(cells.shape) < 0.1] = np.nan
    cells[:, 3] = np.nan
    count = len(cells)
    names = dataset.signatures.spec.cells
    spec = SignatureSpec((), names, ("cp_dose", "cp_cell"), (), ("A375", "MCF7"), missing=True)
    signatures = Signatures(
        spec,
        dataset.signatures.sig_id,
        None,
        cells,
        cp_dose=rng.choice([0.1, 1, 10], count).astype("float32"),
        cp_cell=rng.integers(-1, 2, count).astype("int32"),
    )
    return Dataset(signatures, dataset.targets, dataset.target_names)


@pytest.fixture(scope="module")
def trained():
    """An MLP for each kind of table, the rows that it has not seen, and their explanation."""
    whole = simulate(240, seed=3, genes=30, cells=12)
    few = whole.signatures.take(slice(0, 90))
    tables = {
        "competition": whole,
        "gaps": panel(whole),
        # So few rows that the median is a quantile, and each scaled feature of the median signature 0.
        "few": dataclasses.replace(whole, signatures=few, targets=whole.targets[:90], drug_id=None),
    }
    family = get_family("mlp")
    settings = override(family.presets["small"], ["hidden=32", "epochs=30", "batch_size=64"])
    result = {}
    for name, table in tables.items():
        fold = make_fold(0, table, np.arange(len(table)) % 4 == 0, False)
        train = table.signatures.take(fold.train)
        preprocessing = family.fit_preprocessing(train, settings.architecture, 0)
        features = Inference(preprocessing)(table.signatures.inputs())
        data = NetworkData(preprocessing, features, table.targets, fold)
        network, _ = train_network(family, data, settings, 0, make_placement("none"))
        member = Member(preprocessing, [network], fit_baseline(train))
        held_out = table.signatures.take(fold.held_out)
        result[name] = (member, held_out, explain([member], held_out))
    return result


@pytest.mark.parametrize("name", ["competition", "gaps", "few"])
def test_attributions_sum_to_the_difference_of_logits(trained, name):
    member, signatures, outputs = trained[name]
    difference = outputs["logit"] - outputs["baseline_logit"]
    assert np.abs(difference).max() > 0.3
    error = np.abs(outputs["attribution"].sum(1) - difference)
    assert (error <= 0.02 * np.maximum(np.abs(difference), 0.1)).all()
    if name == "few":
        return
    # The logits are the model's own.
    logits = Inference(member.networks[0])(Inference(member.preprocessing)(signatures.inputs()))
    np.testing.assert_array_equal(outputs["target"], logits.argmax(1))
    np.testing.assert_allclose(outputs["logit"], logits.max(1), rtol=1e-4, atol=1e-5)
    start = {key: np.asarray(value)[None] for key, value in member.baseline.items()}
    logits = Inference(member.networks[0])(Inference(member.preprocessing)(start))
    np.testing.assert_allclose(outputs["baseline_logit"], logits[0, outputs["target"]], atol=1e-3)


def test_a_missing_value_gets_nothing_and_the_treatment_its_difference(trained):
    member, signatures, outputs = trained["gaps"]
    cells = outputs["attribution"][:, : signatures.cells.shape[1]]
    missing = np.isnan(signatures.cells)
    assert missing.any(0).all()
    assert (cells[missing] == 0).all()
    assert (cells[~missing] != 0).mean() > 0.9
    # Where dose and cell line are switched one after the other, at the median viability.
    start = {
        name: np.repeat(np.asarray(value)[None], len(signatures), 0)
        for name, value in member.baseline.items()
    }
    logits = []
    for name in (None, "cp_dose", "cp_cell"):
        if name:
            start[name] = getattr(signatures, name)
        values = Inference(member.networks[0])(Inference(member.preprocessing)(start))
        logits.append(values[np.arange(len(signatures)), outputs["target"]])
    treatment = outputs["attribution"][:, -2:]
    assert np.abs(treatment).max() > 0.03
    np.testing.assert_allclose(treatment, np.diff(logits, axis=0).T, atol=1e-3)


JAX = """
import sys, keras, numpy as np
sys.path.insert(0, sys.argv[1])
assert keras.backend.backend() == "jax"
import test_integrated_gradients as tests
tests.test_a_linear_models_attributions_are_its_weights_times_the_way()
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_on_jax():
    command = [sys.executable, "-c", JAX, os.path.dirname(__file__)]
    subprocess.run(command, env=os.environ | {"KERAS_BACKEND": "jax"}, check=True)
