"""What the signatures of an export answer, and what they refuse."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from moa_tf.data.read import iter_features
from moa_tf.data.schema import DOSES, TYPES
from moa_tf.ensemble.ensemble import Ensemble
from moa_tf.errors import InputError
from moa_tf.serving.export import export
from moa_tf.serving.predict import load_model, raw_inputs


def example(signatures, row, integer_time):
    """One row as serialised tf.Example."""
    import tensorflow as tf

    kinds = {"float": tf.train.FloatList, "int64": tf.train.Int64List, "bytes": tf.train.BytesList}

    def feature(kind, values):
        return tf.train.Feature(**{f"{kind}_list": kinds[kind](value=values)})

    features = {}
    for name, values in signatures.inputs().items():
        value = values[row]
        if name in ("cp_type", "cp_dose"):
            features[name] = feature("bytes", [{"cp_type": TYPES, "cp_dose": DOSES}[name][value].encode()])
        elif name == "cp_time" and integer_time:
            features[name] = feature("int64", [int(value)])
        else:
            features[name] = feature("float", np.atleast_1d(value).tolist())
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def take(signatures, rows, **changes):
    return dataclasses.replace(signatures.take(rows), **changes)


def examples_of(model, serialised):
    import tensorflow as tf

    outputs = model.loaded.signatures["serving_examples"](examples=tf.constant(serialised))
    return outputs["probabilities"].numpy()


def test_probability_is_the_mean_over_networks_and_zero_for_controls(case):
    probabilities = case.model.predict(case.signatures)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, case.expected(case.signatures), atol=1e-6)
    assert (probabilities[case.signatures.control] == 0).all()
    assert (probabilities[~case.signatures.control] > 0).all()
    assert case.signatures.control.any() == ("cp_type" in case.spec.inputs)


def test_inputs_are_those_of_the_panel_under_their_names(case):
    signature = case.model.loaded.signatures["serving_default"].structured_input_signature[1]
    assert set(signature) == set(case.spec.inputs)
    for name, spec in signature.items():
        assert spec.dtype.name == ("string" if name in ("cp_type", "cp_dose") else "float32")
        assert spec.shape.as_list() == [None, *case.spec.inputs[name][0]]


@pytest.mark.parametrize("integer_time", [[False], [True], [False, True]])
def test_examples_give_the_same_with_time_as_float_or_integer(case, integer_time):
    serialised = [example(case.signatures, row, integer_time[row % len(integer_time)]) for row in range(9)]
    np.testing.assert_array_equal(examples_of(case.model, serialised), case.model.predict(case.signatures))


def test_an_example_that_lacks_an_input_is_refused(case):
    import tensorflow as tf

    for name in case.spec.inputs:
        broken = tf.train.Example.FromString(example(case.signatures, 1, False))
        del broken.features.feature[name]
        with pytest.raises(tf.errors.InvalidArgumentError, match=name):
            examples_of(case.model, [example(case.signatures, 0, False), broken.SerializeToString()])


@pytest.mark.parametrize(("name", "value"), [("genes", np.nan), ("genes", np.inf), ("cp_time", np.nan)])
def test_numbers_that_are_not_finite_are_refused(case, name, value):
    import tensorflow as tf

    if name not in case.spec.inputs:
        pytest.skip("the panel lacks it")
    inputs = {key: item.numpy() for key, item in raw_inputs(case.signatures).items()}
    inputs[name][-1] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name}: expected finite"):
        case.model.loaded.signatures["serving_default"](**{k: tf.constant(v) for k, v in inputs.items()})


@pytest.mark.parametrize("name", ["cp_type", "cp_dose"])
def test_unknown_treatments_are_refused(case, name):
    import tensorflow as tf

    if name not in case.spec.inputs:
        pytest.skip("the panel lacks it")
    inputs = raw_inputs(case.signatures) | {name: tf.constant(["D3"] * 9)}
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name}: expected one of"):
        case.model.loaded.signatures["serving_default"](**inputs)


def refused(case, signature, **inputs):
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        case.model.loaded.signatures[signature](**raw_inputs(case.signatures) | inputs)
    return str(caught.value)


@pytest.mark.parametrize("signature", ["serving_default", "explain"])
def test_shapes_that_would_be_broadcast_are_refused_by_name(case, signature):
    inputs = raw_inputs(case.signatures)
    first = next(iter(case.spec.inputs))
    for name, (shape, _) in case.spec.inputs.items():
        wanted = f"{name}: expected the shape [{', '.join(map(str, ('B', *shape)))}], got"
        value = inputs[name]
        for wrong in (value[..., None], value[0], *([value[:, :1], value[:, :0]] if shape else [])):
            message = refused(case, signature, **{name: wrong})
            assert f"{wanted}] [{' '.join(map(str, wrong.shape))}]" in message
        if name != first:
            for rows in (1, 8, 0):
                message = refused(case, signature, **{name: value[:rows]})
                assert f"{name}: expected as many rows as {first} has,] [9] [got] [{rows}]" in message


@pytest.mark.parametrize("shape", [(), (9, 1)])
def test_examples_of_another_shape_are_refused(case, shape):
    import tensorflow as tf

    serialised = np.full(shape, example(case.signatures, 0, False), object)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"examples: expected the shape \[B\], got"):
        examples_of(case.model, serialised)


def test_no_rows_give_no_rows(case):
    import tensorflow as tf

    none = {name: value[:0] for name, value in raw_inputs(case.signatures).items()}
    signatures = case.model.loaded.signatures
    assert signatures["serving_default"](**none)["probabilities"].shape == (0, 3)
    assert signatures["serving_examples"](examples=tf.constant([], tf.string))["probabilities"].shape == (
        0,
        3,
    )
    assert signatures["explain"](**none)["importance"].shape == (0, 4)


def test_networks_that_take_no_empty_batch_and_outputs_that_are_not_of_the_rows(tmp_path, case):
    """An explainer that fails on no rows, and gives a map beside what it says of each row."""
    import tensorflow as tf

    if case.spec.cells or case.spec.treatment:
        pytest.skip("one panel is enough")
    member = case.members[0]._replace(networks=case.members[0].networks[:1])

    def explainer(inputs):
        with tf.control_dependencies([tf.debugging.assert_positive(tf.shape(inputs["genes"])[0])]):
            return {"twice": 2 * inputs["genes"], "map": tf.constant([[3, 4]]), "size": tf.constant(5)}

    version = export(
        Ensemble.of([member]),
        tmp_path,
        spec=case.spec,
        target_names=case.targets,
        metadata={},
        explainer=explainer,
    )
    explain = load_model(version).loaded.signatures["explain"]
    for rows in (0, 1, 2):
        genes = case.signatures.genes[:rows]
        outputs = explain(genes=tf.constant(genes))
        np.testing.assert_array_equal(outputs["twice"], 2 * genes)
        np.testing.assert_array_equal(outputs["map"], [[3, 4]])
        assert outputs["size"] == 5


@pytest.mark.parametrize("hours", [-5, 0, -0.0, 1e-50, np.nan, np.inf, -np.inf, 0.5, 24, 1e30])
def test_hours_are_refused_as_the_reader_refuses_them(case, tmp_path, hours):
    """One rule for tables and for what is served, whatever the signature."""
    import tensorflow as tf

    if "cp_time" not in case.spec.inputs:
        pytest.skip("the panel lacks it")
    columns = {name: 0.5 for name in case.spec.features} | {"cp_type": "trt_cp", "cp_dose": "D1"}
    table = pd.DataFrame({"sig_id": ["a", "b"], **columns, "cp_time": [24.0, hours]})
    table.to_parquet(tmp_path / "f.parquet")
    signatures = take(case.signatures, slice(2), cp_time=np.array([24, hours], np.float32))
    served, loaded = raw_inputs(signatures), case.model.loaded.signatures
    examples = tf.constant([example(signatures, row, False) for row in range(2)])
    calls = (
        lambda: list(iter_features(tmp_path / "f.parquet", case.spec)),
        lambda: loaded["serving_default"](**served),
        lambda: loaded["explain"](**served),
        lambda: loaded["serving_examples"](examples=examples),
    )
    for call in calls:
        if 1e-38 < hours < np.inf:
            call()
        else:
            with pytest.raises((InputError, tf.errors.InvalidArgumentError), match="cp_time"):
                call()


def test_explain_signature_calls_the_explainer(case):
    outputs = case.model.loaded.signatures["explain"](**raw_inputs(case.signatures))
    np.testing.assert_allclose(outputs["importance"], case.activation(case.signatures), atol=1e-6)


WITHOUT_PACKAGE = """
import sys
sys.modules["moa_tf"] = None  # importing it now is an ImportError
sys.modules["keras"] = None
from tensorflow.python.tools.saved_model_cli import main
sys.argv[0] = "saved_model_cli"
main()
"""


@pytest.mark.slow
def test_saved_model_cli_runs_it_without_the_package(case, tmp_path):
    inputs = {name: value.numpy().tolist() for name, value in raw_inputs(case.signatures).items()}
    for name in {"cp_type", "cp_dose"} & set(inputs):
        inputs[name] = [value.decode() for value in inputs[name]]
    if "cp_time" in inputs:
        inputs["cp_time"] = [int(hours) for hours in inputs["cp_time"]]  # as one would type them
    expressions = ";".join(f"{name}={value!r}" for name, value in inputs.items())
    command = ["run", "--dir", case.version, "--tag_set", "serve", "--signature_def", "serving_default"]
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, *command, "--input_exprs", expressions, "--outdir", tmp_path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    probabilities = np.load(tmp_path / "probabilities.npy")
    np.testing.assert_allclose(probabilities, case.expected(case.signatures), atol=1e-6)


@pytest.mark.slow
def test_examples_and_explain_load_without_the_package(case, tmp_path):
    np.save(tmp_path / "examples.npy", [example(case.signatures, row, True) for row in range(9)])
    code = f"""
import sys
sys.modules["moa_tf"] = None
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load({str(case.version)!r})
outputs = loaded.signatures["serving_examples"](examples=tf.constant(np.load("examples.npy").tolist()))
np.save("probabilities.npy", outputs["probabilities"])
print(sorted(loaded.signatures))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.replace("'", '"')) == [
        "classify",
        "explain",
        "serving_default",
        "serving_examples",
    ]
    probabilities = np.load(tmp_path / "probabilities.npy")
    np.testing.assert_allclose(probabilities, case.expected(case.signatures), atol=1e-6)


def test_what_tensorflow_serving_and_its_readers_count_on(case, check_contract):
    check_contract(case.version, case.signatures)


def test_classify_names_controls_and_refuses_as_the_others_do(case):
    import tensorflow as tf

    from moa_tf.serving.examples import to_examples

    classify = case.model.loaded.signatures["classify"]
    examples = [example.SerializeToString() for example in to_examples(case.signatures)]
    outputs = classify(inputs=tf.constant(examples))
    assert (outputs["scores"].numpy()[case.signatures.control] == 0).all()
    assert outputs["classes"].numpy()[case.signatures.control].tolist() == [
        [name.encode() for name in case.targets]
    ] * int(case.signatures.control.sum())
    with pytest.raises(tf.errors.InvalidArgumentError, match="inputs: expected the shape"):
        classify(inputs=tf.constant([examples]))
