"""The TFX pipeline as a user runs it; in an environment of its own, see the README."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from google.protobuf import json_format

from moa_tf.cli.main import main
from moa_tf.data.simulate import write_simulation
from moa_tf.serving.warmup import FILE
from pipelines.evaluation import means_of_others, multi_label_metrics

COMPONENTS = {
    "ImportSchemaGen", "SignatureExampleGen", "StatisticsGen", "LatestAccepted", "ExampleValidator", "DriftValidator",
    "Gate", "Trainer", "LatestBlessed", "Evaluator", "Pusher",
}  # fmt: skip
CONNECTIVITY = ["--name", "moa", "--folds", "2", "--model", "connectivity"]
WORSE = ["--name", "moa", "--folds", "2", "--set", "epochs=1", "--set", "hidden=8", "--set", "decays="]


def call(directory, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(sys, "argv", ["moa-tf", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
    return stopped.value.code or 0


class Pipeline:
    """Calls of `moa-tf pipeline` in one directory, in this process."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.data = write_simulation(directory / "table", 400, seed=3)

    def call(self, *arguments):
        return call(self.directory, "pipeline", *arguments)

    def run(self, *arguments):
        code = self.call("run", "--data", self.data, *arguments, "--json", "run.json")
        return code, json.loads((self.directory / "run.json").read_text())

    @property
    def versions(self):
        return sorted(path.name for path in (self.directory / "saved_models/moa").glob("*"))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return Pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def first(pipeline):
    features = pipeline.data / "test_features.csv"
    code, figures = pipeline.run(*CONNECTIVITY, "--predict", features)
    assert code == 0
    return figures


def test_native_parts_are_loaded(first):
    for name in (
        "tfx_bsl.cc.tfx_bsl_extension",
        "tensorflow_data_validation.pywrap.tensorflow_data_validation_extension",
    ):
        assert sys.modules[name].__file__.endswith(".so")


def test_a_run_pushes_a_blessed_model(pipeline, first):
    components = {each["name"]: each for each in first["components"]}
    assert components.keys() >= COMPONENTS
    assert {each["state"] for each in first["components"]} == {"done"}
    made = {kind for each in first["components"] for _, kind, _ in each["artifacts"]}
    assert made >= {
        "Examples", "ExampleStatistics", "Schema", "ExampleAnomalies", "Model", "ModelRun", "ModelEvaluation",
        "ModelBlessing", "PushedModel", "InferenceResult",
    }  # fmt: skip
    assert first["blessed"]
    assert first["pushed"] == str(pipeline.directory / "saved_models/moa/1")
    assert first["figures"]["log_loss_by_column_means"] < 1
    assert pipeline.versions == ["1"]


def test_a_drug_is_in_one_split_and_no_row_is_lost(pipeline, first):
    uri = next(
        uri
        for each in first["components"]
        if each["name"] == "SignatureExampleGen"
        for _, _, uri in each["artifacts"]
    )
    drugs, rows = {}, {}
    for split in ("train", "eval"):
        files = sorted(Path(uri, f"Split-{split}").glob("*.gz"))
        for record in tf.data.TFRecordDataset(list(map(str, files)), "GZIP").as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            drugs.setdefault(split, set()).add(feature["drug_id"].bytes_list.value[0])
            rows.setdefault(split, []).append(feature["sig_id"].bytes_list.value[0].decode())
    table = pd.read_csv(pipeline.data / "train_features.csv")
    assert sorted(rows["train"] + rows["eval"]) == sorted(table["sig_id"])
    known = pd.read_csv(pipeline.data / "train_drug.csv").set_index("sig_id")["drug_id"]
    treated = set(table["sig_id"][table["cp_type"] == "trt_cp"])
    of = {split: set(known[[name for name in names if name in treated]]) for split, names in rows.items()}
    assert not of["train"] & of["eval"]
    assert 0.1 < len(of["eval"]) / len(of["train"] | of["eval"]) < 0.35


def test_predictions_are_those_of_the_pushed_model(pipeline, first):
    predicted = pd.read_parquet(pipeline.directory / "pipeline_runs/moa/predictions.parquet")
    features = pipeline.data / "test_features.csv"
    assert call(pipeline.directory, "predict", first["pushed"], features, "local.parquet") == 0
    local = pd.read_parquet(pipeline.directory / "local.parquet")
    assert list(predicted["sig_id"]) == list(local["sig_id"])
    np.testing.assert_allclose(predicted[local.columns[1:]], local[local.columns[1:]], atol=1e-6)


def test_warmup_requests_and_the_card_travel_with_the_pushed_model(pipeline, first):
    from tensorflow_serving.apis import prediction_log_pb2

    pushed = Path(first["pushed"])
    loaded = tf.saved_model.load(str(pushed))
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in tf.data.TFRecordDataset(str(pushed / FILE)).as_numpy_iterator()
    ]
    requests = [getattr(log, log.WhichOneof("log_type")).request for log in logs]
    assert {request.model_spec.signature_name for request in requests} == set(loaded.signatures)
    (default,) = [r for r in requests if r.model_spec.signature_name == "serving_default"]
    inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in default.inputs.items()}
    assert np.isfinite(loaded.signatures["serving_default"](**inputs)["probabilities"]).all()
    assert json.loads((pushed / "model_card.json").read_text())["training_data"]["simulated"] is True


def test_a_drifted_table_is_refused(pipeline, first, capsys):
    drifted = pipeline.directory / "drifted"
    shutil.copytree(pipeline.data, drifted)
    table = pd.read_csv(drifted / "train_features.csv")
    genes = [name for name in table if name.startswith("g-")]
    table[genes] += table[genes].to_numpy().std()
    table.to_csv(drifted / "train_features.csv", index=False)
    before = pipeline.versions
    assert pipeline.call("run", "--data", drifted, *CONNECTIVITY) == 2
    printed = capsys.readouterr()
    assert "drifted: genes (split train): The approximate Jensen-Shannon divergence" in printed.err
    assert "Traceback" not in printed.err
    assert "Trainer" not in printed.err
    assert pipeline.versions == before


def test_a_broken_table_is_refused(pipeline, first, capsys):
    broken = pipeline.directory / "broken"
    shutil.copytree(pipeline.data, broken)
    table = pd.read_csv(broken / "train_features.csv")
    table.loc[5, "g-3"] = 1e6
    table.to_csv(broken / "train_features.csv", index=False)
    assert pipeline.call("run", "--data", broken, *CONNECTIVITY) == 2
    assert "broken: genes (split" in capsys.readouterr().err


def test_a_worse_model_is_not_blessed(pipeline, first, capsys):
    code, figures = pipeline.run(*WORSE)
    assert code == 2
    assert not figures["blessed"]
    assert figures["pushed"] is None
    assert "above the" in capsys.readouterr().err
    assert pipeline.versions == ["1"]


def test_an_unchanged_run_comes_from_the_cache(pipeline, first):
    code, _ = pipeline.run(*CONNECTIVITY)
    code, figures = pipeline.run(*CONNECTIVITY)
    assert code == 0
    states = {each["name"]: each["state"] for each in figures["components"]}
    assert {name for name, state in states.items() if state == "done"} == {"LatestAccepted", "LatestBlessed"}
    assert figures["pushed"] == first["pushed"]


def test_status_says_what_became_of_each_run(pipeline, first, capsys):
    assert pipeline.call("run", "--data", pipeline.directory / "drifted", *CONNECTIVITY) == 2
    assert pipeline.call("run", "--data", pipeline.data, *WORSE) == 2
    capsys.readouterr()
    assert pipeline.call("status", "pipeline_runs/moa", "--json", "status.json") == 0
    worse, drifted = json.loads((pipeline.directory / "status.json").read_text())["runs"][:2]
    assert worse["outcome"] == "not blessed, not pushed"
    assert "of the model that was blessed last" in worse["reasons"][0]
    assert drifted["outcome"] == "table refused"
    assert "Jensen-Shannon" in drifted["reasons"][0]
    page = (pipeline.directory / "pipeline_runs/moa/status.html").read_text()
    for reason in (*worse["reasons"], *drifted["reasons"]):
        assert reason in page
    assert 'href="artifacts/Evaluator/evaluation/' in page


def test_a_pushed_model_that_was_deleted_is_pushed_again(pipeline, first):
    kept = pipeline.directory / "kept"
    Path(first["pushed"]).rename(kept)
    code, figures = pipeline.run(*CONNECTIVITY)
    assert code == 0
    assert Path(figures["pushed"], "saved_model.pb").is_file()
    shutil.rmtree(figures["pushed"])
    kept.rename(first["pushed"])


def test_compiled_for_kubeflow(pipeline):
    arguments = [
        "--data",
        pipeline.data,
        *CONNECTIVITY,
        "--in-container",
        "/gcs/bucket/moa",
        "--image",
        "r/moa-tf:1",
    ]
    assert pipeline.call("compile", "pipeline.json", *arguments) == 0
    compiled = json.loads((pipeline.directory / "pipeline.json").read_text())
    spec = compiled["pipelineSpec"]
    # A resolver of two artifacts is a task for each.
    assert {name.partition("-")[0] for name in spec["root"]["dag"]["tasks"]} == COMPONENTS
    assert "Gate" in spec["root"]["dag"]["tasks"]["Trainer"]["dependentTasks"]
    assert "/gcs/bucket/moa/data" in json.dumps(spec)
    assert str(pipeline.directory) not in json.dumps(spec)
    assert (pipeline.directory / "schema.pbtxt").is_file()

    from kfp.pipeline_spec import pipeline_spec_pb2

    from pipelines.kubeflow import check

    with pytest.raises(json_format.ParseError):
        check(compiled | {"pipelineSpec": spec | {"nodes": {}}}, pipeline_spec_pb2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "A b"], "--name 'A b'"),
        (["--beam", "direct"], "--beam direct: expected KEY=VALUE"),
        (["--set", "nothing=1"], "nothing"),
        (["--preset", "none"], "--preset none"),
        (["--schema", "absent"], "absent"),
        (["--predict", "absent.csv"], "absent.csv"),
    ],
)
def test_wrong_calls_are_refused_before_anything_runs(pipeline, arguments, said, capsys):
    assert pipeline.call("run", "--data", pipeline.data, "--root", "wrong", *arguments) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "Traceback" not in printed
    assert "SignatureExampleGen" not in printed


def test_metrics_by_hand():
    targets = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], np.float32)
    drugs = np.array([b"a", b"a", b"b", b"c"], object)
    # Of the other drugs' rows: for a 0 and 1 of 2, for b 2 and 0 of 3, for c 2 and 1 of 3; half a row on each side.
    expected = [[0.5 / 3, 1.5 / 3], [0.5 / 3, 1.5 / 3], [2.5 / 4, 0.5 / 4], [2.5 / 4, 1.5 / 4]]
    means = means_of_others(targets, drugs)
    np.testing.assert_allclose(means, expected)
    perfect = np.where(targets == 1, 0.9, 0.1)
    figures = multi_label_metrics(targets, perfect, drugs)
    assert figures["log_loss"] == pytest.approx(-np.log(0.9), rel=1e-5)
    of_means = -(targets * np.log(means) + (1 - targets) * np.log(1 - means)).mean()
    assert figures["log_loss_by_column_means"] == pytest.approx(-np.log(0.9) / of_means, rel=1e-5)
    assert figures["macro_auroc"] == 1
    assert figures["macro_average_precision"] == 1


@pytest.mark.slow
def test_killed_in_the_trainer_goes_on_with_what_was_finished(tmp_path):
    data = write_simulation(tmp_path / "table", 400, seed=3)
    code = "from moa_tf.cli.main import main; main()"
    arguments = ["pipeline", "run", "--data", data, "--folds", "2", "--set", "hidden=16", "--set", "decays=",
                 "--set", "early_stopping=0", "--strategy", "mirrored", "--logical-devices", "2"]  # fmt: skip
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("fold 0 seed 0"):
                process.send_signal(signal.SIGKILL)
                break
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    for name in ("SignatureExampleGen", "StatisticsGen", "ExampleValidator"):
        assert f"{name}: from the cache" in finished.stderr
    assert "fold 0 seed 0" not in finished.stderr
    assert "fold 1 seed 0" in finished.stderr
    assert (tmp_path / "saved_models/mlp/1/saved_model.pb").is_file()
