"""From training to a served model: an MLP, a connectivity model and their blend, by the official clients."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-W", "ignore", "-c", "from moa_tf.cli.main import main; main()"]


def moa_tf(*arguments):
    result = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Trained and exported: `models/mlp`, `models/connectivity`, `models/blend`."""
    home = tmp_path_factory.mktemp("runs")
    moa_tf("data", "simulate", home / "data", "--signatures", "200", "--seed", "1")
    train = ("train", "--data", home / "data", "--folds", "2")
    moa_tf(
        *train,
        "--model",
        "mlp",
        "--set",
        "steps=40",
        "--out",
        home / "mlp",
        "--export",
        home / "models" / "mlp",
    )
    moa_tf(
        *(*train, "--model", "connectivity", "--out", home / "near"),
        *("--export", home / "models" / "connectivity"),
    )
    moa_tf(
        "blend", home / "mlp", home / "near", "--out", home / "both", "--export", home / "models" / "blend"
    )
    for name in ("mlp", "connectivity", "blend"):
        moa_tf(
            "predict", home / "models" / name, home / "data" / "test_features.csv", home / f"{name}.parquet"
        )
    return home


@pytest.fixture(scope="module")
def runs_server(home, start):
    return start(home / "models")


@pytest.mark.parametrize("name", ["mlp", "connectivity", "blend"])
def test_official_clients_get_what_is_predicted_here(name, home, runs_server):
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    from moa_tf.data.read import read_features
    from moa_tf.serving.predict import load_model, raw_columns

    model = load_model(home / "models" / name)
    signatures = read_features(home / "data" / "test_features.csv", model.spec).take(np.arange(40))
    columns = raw_columns(signatures)
    expected = model.predict(signatures)
    assert expected.max() > 0
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    for key, values in columns.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(values))
    with grpc.insecure_channel(runs_server.grpc) as channel:
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
    np.testing.assert_allclose(tf.make_ndarray(answer.outputs["probabilities"]), expected, atol=1e-6)
    plain = {
        key: [v.decode() for v in values] if values.dtype == object else values.tolist()
        for key, values in columns.items()
    }
    answer = runs_server.post(f"/v1/models/{name}:predict", json={"inputs": plain})
    np.testing.assert_allclose(answer.json()["outputs"], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "connectivity", "blend"])
def test_the_contract(name, home, check_contract):
    from moa_tf.data.read import read_features
    from moa_tf.serving.predict import load_model

    version = load_model(home / "models" / name)
    signatures = read_features(home / "data" / "test_features.csv", version.spec).take(np.arange(40))
    check_contract(version.path, signatures)


def test_why_names_reference_drugs(home, runs_server):
    table = (home / "data" / "test_features.csv").read_bytes()
    rows = runs_server.post("/api/models/connectivity:rank?name=t.csv", data=table).json()["rows"]
    treated = next(row for row in rows if not row["control"])
    answer = runs_server.post(
        f"/api/models/connectivity:explain?name=t.csv&sig_id={treated['sig_id']}", data=table
    ).json()
    assert answer["mechanism"] == treated["mechanisms"][0][0]
    references = pd.read_csv(home / "models" / "connectivity" / "1" / "assets" / "references.csv", dtype=str)
    known = set(references["drug"])
    assert answer["neighbours"]
    assert all(near["drug"] in known for near in answer["neighbours"])
    similarities = [near["similarity"] for near in answer["neighbours"]]
    assert similarities == sorted(similarities, reverse=True)


def test_the_model_card_has_the_runs_figures(home):
    import json

    card = json.loads((home / "models" / "mlp" / "1" / "model_card.json").read_text())
    metrics = json.loads((home / "mlp" / "metrics.json").read_text())
    overall = metrics["overall"]
    assert card["evaluation"]["metrics"]["log_loss"] == overall["log_loss_treated"]
    assert card["evaluation"]["intervals"] == overall["intervals"]
    assert card["evaluation"]["split"] == "drug"
    assert card["training_data"]["drugs"] == overall["drugs"]
    assert card["training_data"]["simulated"] is True
    assert card["calibration"]["expected_calibration_error"] == overall["calibration_error"]
    assert sum(card["calibration"]["reliability"]["count"]) == overall["treated_rows"] * overall["targets"]
    assert len(card["evaluation"]["mechanisms"]["name"]) == card["targets"]
    text = (home / "models" / "mlp" / "1" / "README.md").read_text()
    low, high = overall["intervals"]["log_loss"]
    assert f"| log loss | {overall['log_loss_treated']:.4g} | {low:.4g} to {high:.4g} |" in text
    assert "**simulated**" in text
    blend = json.loads((home / "models" / "blend" / "1" / "model_card.json").read_text())
    assert sum(part["weight"] for part in blend["components"]) == pytest.approx(1)


def drugs_of(page):
    return re.findall(r"<h2>(.*?)</h2>", page), re.findall(r'class="name">(.*?)<', page)


@pytest.mark.parametrize("name", ["connectivity", "blend"])
def test_a_dropped_table_gets_the_cards_that_rank_makes(name, home, runs_server, browser, tmp_path):
    """By the page's button, in a browser; and as the command makes them."""
    features = pd.read_csv(home / "data" / "train_features.csv").iloc[:120]
    drugs = pd.read_csv(home / "data" / "train_drug.csv").set_index("sig_id").drug_id
    features.insert(1, "drug_id", drugs[features.sig_id].to_numpy())
    features.to_csv(tmp_path / "plate.csv", index=False)
    moa_tf("rank", home / "models" / name, tmp_path / "plate.csv", tmp_path / "ranked")
    expected = drugs_of((tmp_path / "ranked" / "index.html").read_text())
    assert len(expected[0]) == features.drug_id[features.cp_type == "trt_cp"].nunique()
    page, faults = browser.new_page(), []
    page.goto(runs_server.url)
    page.wait_for_selector("#about:not(:empty)")
    page.select_option("#model", name)
    page.set_input_files("#file", tmp_path / "plate.csv")
    page.wait_for_selector(".signature")
    with page.expect_popup() as popup:
        page.click("#cards")
    cards = popup.value
    cards.on("pageerror", lambda error: faults.append(str(error)))
    cards.wait_for_selector("article")
    assert drugs_of(cards.content()) == expected
    drug = expected[0][3]
    cards.fill("#find", drug)
    assert cards.inner_text("#shown").endswith(f"of {len(expected[0])} drugs")
    assert drug in [each.inner_text() for each in cards.query_selector_all("article:not([hidden]) h2")]
    assert len(cards.query_selector_all("article[hidden]")) > 0
    assert not faults
    page.close()
    cards.close()


def test_a_table_of_controls_has_no_cards(home, runs_server):
    features = pd.read_csv(home / "data" / "train_features.csv")
    body = features[features.cp_type == "ctl_vehicle"].to_csv(index=False).encode()
    answer = runs_server.post("/api/models/mlp:cards?name=t.csv", data=body)
    assert answer.status_code == 400
    assert answer.json()["error"] == "t.csv: all signatures are controls, expected treated ones to rank"
