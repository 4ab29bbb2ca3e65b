"""Every family on a panel without genes, with gaps, doses in µM and cell lines: preprocessing, export, explanation."""

import numpy as np
import pytest
import tensorflow as tf

from moa_tf.config import override
from moa_tf.data.schema import CONTROL, Signatures, SignatureSpec
from moa_tf.ensemble.ensemble import Ensemble
from moa_tf.explanation.sources import open_source
from moa_tf.models.base import FAMILIES, Member, Task, get_family, importance_columns
from moa_tf.models.integrated_gradients import fit_baseline
from moa_tf.serving.export import export
from moa_tf.serving.predict import load_model, raw_inputs
from moa_tf.training.inference import Inference

ROWS = 40
SPEC = SignatureSpec(
    (),
    tuple(f"c-{i}" for i in range(8)),
    ("cp_type", "cp_dose", "cp_cell"),
    (),
    ("A375", "MCF7"),
    missing=True,
)
SETTINGS = {
    "mlp": ["hidden=4"],
    "linear": [],
    "connectivity": ["temperatures=0.1", "mixing=0.1"],
    "tabm": ["hidden=4", "k=3"],
    "resnet": ["selected=3", "wide=4", "narrow=4"],
    "cnn1d": ["hidden=8", "channels=2", "filters=2"],
    "gru": ["units=4", "embedding=4", "step_size=3"],
    "lstm": ["units=4", "embedding=4", "step_size=100"],
    "tabnet": ["embed_treatment=true", "n_d=4", "n_a=4"],
    "deepinsight": ["image_size=32"],
}
# The others are like these in what is tested here, but for their networks.
QUICK = ("mlp", "linear", "connectivity")


@pytest.fixture(scope="module")
def signatures():
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(ROWS, 8)).astype(np.float32)
    cells[rng.random(cells.shape) < 0.1] = np.nan
    cells[:, 3] = np.nan  # A cell line that nobody measured.
    control = np.arange(ROWS) % 5 == 4
    return Signatures(
        SPEC,
        np.array([f"s{i}" for i in range(ROWS)], object),
        None,
        cells,
        cp_type=np.where(control, CONTROL, 0).astype(np.int32),
        cp_dose=np.where(control, np.nan, rng.choice([0.1, 1, 10], ROWS)).astype(np.float32),
        cp_cell=rng.integers(-1, 2, ROWS).astype(np.int32),
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in FAMILIES]
)
def test_a_model_takes_gaps_micromolar_and_unknown_cell_lines(name, signatures, tmp_path, check_contract):
    family = get_family(name)
    architecture = override(family.presets["small"], SETTINGS[name]).architecture
    preprocessing = family.fit_preprocessing(signatures.take(slice(0, 30)), architecture, 0)
    network = family.build(preprocessing, architecture, np.full(3, 0.2), 0)
    rng = np.random.default_rng(1)
    if family.solve is not None:
        fitted = signatures.take(slice(0, 30))
        task = Task(
            Inference(preprocessing)(fitted.inputs()),
            (rng.random((30, 3)) < 0.3).astype(np.float32),
            fitted.sig_id.astype(str),
            ~fitted.control,
            [(np.arange(15), np.arange(15, 30))],
        )
        family.solve(network, task, architecture)
    else:
        network.set_weights(
            [w + 0.1 * rng.normal(size=w.shape).astype(w.dtype) for w in network.get_weights()]
        )
    members = [Member(preprocessing, [network], fit_baseline(signatures.take(slice(0, 30))))]
    version = export(
        Ensemble.of(members), tmp_path / "models", spec=SPEC, target_names=["a", "b", "c"], metadata={"model": name},
        explainer=family.explain(members),
    )  # fmt: skip
    model = load_model(version)
    assert model.spec == SPEC
    features = Inference(preprocessing)(signatures.inputs())
    assert np.isfinite(features["features"]).all()
    logits = Inference(network)(features).astype(np.float64)
    expected = np.where(signatures.control[:, None], 0, 1 / (1 + np.exp(-logits)))
    assert np.ptp(expected[~signatures.control]) > 1e-3
    np.testing.assert_allclose(model.predict(signatures), expected, atol=1e-6)

    serve = model.loaded.signatures["serving_default"]
    one = {
        "cells": np.full((1, 8), np.nan, np.float32),
        "cp_type": np.array(["trt_poscon"]),
        "cp_dose": np.float32([3]),
        "cp_cell": np.array(["never seen"]),
    }

    def ask(**changes):
        return serve(**{key: tf.constant(value) for key, value in (one | changes).items()})[
            "probabilities"
        ].numpy()

    assert np.isfinite(ask()).all()
    assert (ask(cp_type=np.array(["ctl_untrt"]), cp_dose=np.float32([np.nan])) == 0).all()
    for changes, message in (
        ({"cp_dose": np.float32([0])}, "above 0, got"),
        ({"cp_dose": np.float32([np.nan])}, "above 0, got"),
        ({"cp_type": np.array(["dmso"])}, "cp_type: expected one of trt_"),
        ({"cells": np.full((1, 8), np.inf, np.float32)}, "cells: expected finite numbers, or NaN"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            ask(**changes)
        assert message in str(error.value)
    explain = model.loaded.signatures["explain"]
    outputs = explain(**{key: tf.constant(value) for key, value in one.items()})
    assert outputs["importance"].shape[1] <= len(importance_columns(SPEC)) == 10
    assert np.isfinite(outputs["importance"]).all()
    assert outputs["target"].numpy().tolist() == ask().argmax(1).tolist()
    explained = open_source(version).explain(signatures)
    shares = explained.importance.sum(1)  # 0 of a signature that no decision reads
    np.testing.assert_allclose(shares[shares != 0], 1, rtol=1e-5)
    assert (shares != 0).mean() > 0.5
    # What is exported is what the family gives.
    together = explain(**raw_inputs(signatures))
    direct = tf.function(family.explain(members))
    direct = direct({key: tf.constant(value) for key, value in signatures.inputs().items()})
    assert set(together) == set(direct)
    for key, value in direct.items():
        np.testing.assert_allclose(together[key], value, rtol=1e-3, atol=1e-4, err_msg=key)
    nothing = explain(**raw_inputs(signatures.take(slice(0, 0))))
    assert nothing["importance"].shape == (0, together["importance"].shape[1])
    assert nothing["target"].shape == (0,)
    shares = open_source(version).explain(signatures).importance
    total = np.sum(together["importance"], axis=1, keepdims=True)
    np.testing.assert_allclose(shares * total, together["importance"], rtol=1e-3, atol=1e-4)
    check_contract(version, signatures)
