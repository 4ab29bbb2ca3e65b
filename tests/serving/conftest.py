from types import SimpleNamespace

import numpy as np
import pytest

from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.ensemble.ensemble import Ensemble
from moa_tf.models.base import Member

GENES, CELLS = ("g-0", "g-1", "g-2"), ("c-0", "c-1")
PANELS = {
    "all": SignatureSpec(GENES, CELLS),
    "genes": SignatureSpec(GENES, (), ()),
    "no-cells": SignatureSpec(GENES, (), ("cp_type", "cp_time")),
}
TARGETS = ("a", "b, inhibitor", "c")


def make_member(spec, seed, networks):
    """Preprocessing with weights of its own fold, and networks with dropout and batch statistics."""
    import keras

    keras.utils.set_random_seed(seed)
    inputs = {
        name: keras.Input(shape, dtype=dtype, name=name) for name, (shape, dtype) in spec.inputs.items()
    }
    numbers = [inputs[name] for name in ("genes", "cells") if name in inputs]
    x = keras.layers.Concatenate()(numbers) if len(numbers) > 1 else numbers[0]
    features = {"x": keras.layers.Dense(4, activation="tanh")(x)}
    if "cp_time" in inputs:
        hours = keras.layers.Reshape((1,))(inputs["cp_time"])
        features["time"] = keras.layers.Rescaling(1 / 72, dtype="float32")(hours)
    if "cp_dose" in inputs:
        features["dose"] = keras.layers.Embedding(2, 2)(inputs["cp_dose"])
    # Nothing here reads cp_type, and not every Keras takes an input that nothing reads.
    used = {name: tensor for name, tensor in inputs.items() if name != "cp_type"}
    preprocessing = keras.Model(used, features)

    def network():
        heads = {name: keras.Input(value.shape[1:], name=name) for name, value in features.items()}
        h = keras.layers.Concatenate()(list(heads.values())) if len(heads) > 1 else heads["x"]
        h = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(h))
        model = keras.Model(heads, keras.layers.Dense(len(TARGETS), bias_initializer="normal")(h))
        model.layers[-1].bias.assign(np.random.default_rng(seed).normal(size=len(TARGETS)))
        return model

    return Member(preprocessing, [network() for _ in range(networks)])


def make_signatures(spec, rows, seed=0):
    rng = np.random.default_rng(seed)
    values = {
        "genes": rng.normal(size=(rows, len(spec.genes))).astype(np.float32),
        "cells": rng.normal(size=(rows, len(spec.cells))).astype(np.float32),
        "cp_type": (np.arange(rows) % 4 == 3).astype(np.int32),
        "cp_time": rng.choice([24, 48, 72], rows).astype(np.float32),
        "cp_dose": rng.integers(0, 2, rows).astype(np.int32),
    }
    return Signatures(
        spec,
        np.array([f"id_{i}" for i in range(rows)], object),
        **{k: v for k, v in values.items() if k in spec.inputs},
    )


def call(preprocessing, inputs):
    return preprocessing({name: inputs[name] for name in preprocessing.input})


def mean_probabilities(members, signatures):
    """What an export must give, in NumPy float64."""
    probabilities = [
        1 / (1 + np.exp(-np.asarray(network(call(preprocessing, signatures.inputs())), np.float64)))
        for preprocessing, networks, _ in members
        for network in networks
    ]
    return np.where(signatures.control[:, None], 0, np.mean(probabilities, axis=0))


@pytest.fixture(scope="session", params=PANELS)
def case(request, tmp_path_factory):
    """An exported model of two folds (two seeds, one seed) for each kind of panel."""
    from moa_tf.serving.export import export
    from moa_tf.serving.predict import load_model

    spec = PANELS[request.param]
    members = [make_member(spec, 0, 2), make_member(spec, 1, 1)]
    root = tmp_path_factory.mktemp(request.param) / "saved_models" / "tiny"
    metadata = {"fingerprint": "abc", "simulated": True, "metrics": {"macro_auroc": float("nan")}}
    version = export(
        Ensemble.of(members),
        root,
        spec=spec,
        target_names=TARGETS,
        metadata=metadata,
        explainer=lambda inputs: {"importance": call(members[1][0], inputs)["x"]},
    )
    return SimpleNamespace(
        spec=spec,
        members=members,
        root=root,
        version=version,
        targets=TARGETS,
        model=load_model(root),
        signatures=make_signatures(spec, 9),
        activation=lambda signatures: call(members[1][0], signatures.inputs())["x"],
        expected=lambda signatures: mean_probabilities(members, signatures),
    )


@pytest.fixture(scope="session")
def export_again(case):
    """Exports the case's first network once more."""
    from moa_tf.serving.export import export

    def run(root, **changes):
        values = {"spec": case.spec, "target_names": TARGETS, "metadata": {}} | changes
        member = case.members[0]._replace(networks=case.members[0].networks[:1])
        return export(Ensemble.of([member]), root, **values)

    return run


@pytest.fixture(scope="session")
def check_contract():
    """Checks of a version what TensorFlow Serving and its readers count on, whatever the family."""
    import json

    import tensorflow as tf
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    from moa_tf.serving.examples import to_examples
    from moa_tf.serving.predict import load_model
    from moa_tf.serving.warmup import FILE

    def check(version, signatures):
        assert version.name.isdecimal()
        model = load_model(version)
        functions = model.loaded.signatures
        expected = model.predict(signatures)
        serialised = [example.SerializeToString() for example in to_examples(signatures)]
        ranked = functions["classify"](inputs=tf.constant(serialised))
        scores, classes = ranked["scores"].numpy(), ranked["classes"].numpy()
        places = {name.encode(): i for i, name in enumerate(model.target_names)}
        order = np.vectorize(places.get)(classes)
        assert (np.sort(order, axis=1) == np.arange(len(places))).all()
        assert (np.diff(scores, axis=1) <= 0).all()
        np.testing.assert_allclose(scores, np.take_along_axis(expected, order, 1), atol=1e-6)
        nothing = functions["classify"](inputs=tf.constant([], tf.string))
        assert nothing["classes"].shape == nothing["scores"].shape == (0, len(places))

        saved = SavedModel.FromString((version / "saved_model.pb").read_bytes())
        defs = saved.meta_graphs[0].signature_def
        assert defs["classify"].method_name == "tensorflow/serving/classify"
        assert defs["serving_default"].method_name == "tensorflow/serving/predict"

        warmed = set()
        for record in tf.data.TFRecordDataset(str(version / FILE)).as_numpy_iterator():
            log = PredictionLog.FromString(record)
            if log.HasField("classify_log"):
                request = log.classify_log.request
                examples = [example.SerializeToString() for example in request.input.example_list.examples]
                answer = functions["classify"](inputs=tf.constant(examples))["scores"]
            else:
                request = log.predict_log.request
                name = request.model_spec.signature_name
                inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
                outputs = functions[name](**{key: tf.constant(value) for key, value in inputs.items()})
                answer = outputs["importance" if name == "explain" else "probabilities"]
            assert answer.shape[0] == 1
            assert np.isfinite(answer).all()
            warmed.add(request.model_spec.signature_name)
        assert warmed == set(functions) == set(model.metadata["signatures"])

        card = json.loads((version / "model_card.json").read_text())
        assert card["targets"] == len(places)
        assert card["signatures"] == model.metadata["signatures"]
        assert card["networks"] == model.metadata["networks"]
        told = (version / "README.md").read_text()
        assert all(f"## {part}" in told for part in ("Model", "Inputs", "Intended use", "Limits"))

    return check
