"""The REST API: TensorFlow Serving's documented calls, one by one."""

import gzip
import json

import numpy as np
import pytest
import requests

MODEL = "/v1/models/tiny"


def rows_of(columns, places=slice(None)):
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)][places]


def test_predict_by_rows_and_by_columns_equals_the_model(server, columns, local):
    by_rows = server.post(f"{MODEL}:predict", json={"instances": rows_of(columns)})
    assert by_rows.headers["Content-Type"] == "application/json"
    np.testing.assert_allclose(by_rows.json()["predictions"], local, atol=1e-6)
    by_columns = server.post(
        f"{MODEL}:predict", json={"inputs": columns, "signature_name": "serving_default"}
    )
    np.testing.assert_allclose(by_columns.json()["outputs"], local, atol=1e-6)
    assert by_rows.json()["predictions"][3] == [0.0] * 4  # a control


def test_versions_and_labels_are_places_of_their_own(server, columns, local, case_all, root):
    from moa_tf.serving.predict import load_model

    first = load_model(root / "tiny" / "1").predict(case_all.signatures)
    answer = server.post(f"{MODEL}/versions/1:predict", json={"inputs": columns}).json()["outputs"]
    np.testing.assert_allclose(answer, first, atol=1e-6)
    assert np.abs(first - local).max() > 1e-3
    missing = server.post(f"{MODEL}/versions/7:predict", json={"inputs": columns})
    assert (missing.status_code, missing.json()) == (
        404,
        {"error": "Servable not found for request: Specific(tiny, 7)"},
    )
    label = server.post(f"{MODEL}/labels/stable:predict", json={"inputs": columns})
    assert label.status_code == 404
    assert "Unrecognized servable version label: stable" in label.json()["error"]
    assert server.post("/v1/models/none:predict", json={"inputs": columns}).status_code == 404


def test_serialised_examples_come_as_base64(server, case_all, local):
    import base64

    from moa_tf.serving.examples import to_examples

    packed = [
        {"b64": base64.b64encode(example.SerializeToString()).decode()}
        for example in to_examples(case_all.signatures)
    ]
    for body, key in (
        ({"instances": packed}, "predictions"),
        ({"instances": [{"examples": item} for item in packed]}, "predictions"),
        ({"inputs": packed}, "outputs"),
        ({"inputs": {"examples": packed}}, "outputs"),
    ):
        answer = server.post(f"{MODEL}:predict", json={"signature_name": "serving_examples", **body})
        np.testing.assert_allclose(answer.json()[key], local, atol=1e-6)


def test_classify_answers_with_names_best_first(server, columns, local, case_all):
    answer = server.post(f"{MODEL}:classify", json={"examples": rows_of(columns)})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    for result, expected in zip(results, local, strict=True):
        assert [score for _, score in result] == sorted((score for _, score in result), reverse=True)
        scores = dict(result)
        np.testing.assert_allclose([scores[name] for name in case_all.targets], expected, atol=1e-6)
    # What is the same for all stands in the context.
    shared = {key: columns[key][0] for key in ("cp_type", "cp_time", "cp_dose")}
    own = [{key: columns[key][0] for key in ("genes", "cells")}]
    again = server.post(f"{MODEL}:classify", json={"context": shared, "examples": own})
    (first,) = again.json()["results"]
    assert [name for name, _ in first] == [name for name, _ in results[0]]
    np.testing.assert_allclose([score for _, score in first], [score for _, score in results[0]], atol=1e-6)


def test_explain_has_outputs_that_are_not_of_the_rows(server, columns):
    body = {"signature_name": "explain", "inputs": columns}
    outputs = server.post(f"{MODEL}:predict", json=body).json()["outputs"]
    assert np.shape(outputs["importance"]) == (9, 5)
    assert outputs["pixels"] == [[0, 1], [2, 3], [4, 5]]
    assert np.shape(outputs["target"]) == (9,)
    refused = server.post(
        f"{MODEL}:predict", json={"signature_name": "explain", "instances": rows_of(columns)}
    )
    assert refused.status_code == 400
    assert "pixels has inconsistent batch size" in refused.json()["error"]


def test_an_empty_batch_and_missing_values(server, columns, case_all):
    nothing = {name: [] for name in columns}
    assert server.post(f"{MODEL}:predict", json={"inputs": nothing}).json() == {"outputs": []}
    assert server.post(f"{MODEL}:predict", json={"instances": []}).json() == {"predictions": []}
    row = {**rows_of(columns)[0], "genes": [float("nan"), 0.0, 1.0]}
    answer = server.post(f"{MODEL}:predict", data=json.dumps({"instances": [row]}))
    assert np.isfinite(answer.json()["predictions"]).all()
    row["genes"][0] = float("inf")
    answer = server.post(f"{MODEL}:predict", data=json.dumps({"instances": [row]}))
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("genes: expected finite numbers")


def one(columns, **changes):
    return {"inputs": {**{name: values[:1] for name, values in columns.items()}, **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cp_type": ["trt_cp"] * 2}, "cp_type: expected as many rows as"),
        ({"cp_time": [[24.0]]}, "cp_time: expected the shape [B], got [1, 1]"),
        ({"genes": [[1.0, 2.0]]}, "genes: expected the shape [B, 3], got [1, 2]"),
        ({"genes": [[1.0, 2.0], [3.0]]}, "genes: expected lists of one length"),
        ({"genes": [["1", "2", "3"]]}, "genes: expected numbers"),
        ({"genes": [[1.0, None, 2.0]]}, "genes: expected numbers"),
        ({"genes": [[True, False, True]]}, "genes: expected numbers"),
        ({"genes": [[1e39, 0, 0]]}, "genes: expected finite numbers"),
        ({"genes": {"b64": "AA=="}}, "genes: expected numbers"),
        ({"genes": 1.0}, "genes: expected the shape [B, 3], got []"),
        ({"cp_type": [1]}, "cp_type: expected texts"),
        ({"cp_type": "trt_cp"}, "cp_type: expected a list of texts"),
        ({"cp_type": [{"b64": "?"}]}, "cp_type: Unable to base64 decode"),
        ({"cp_type": ["dmso"]}, "cp_type: expected one of trt_"),
        ({"cp_dose": ["D3"]}, "cp_dose: expected one of D1, D2"),
        ({"cp_time": [0.0]}, "cp_time: expected hours above 0"),
        ({"g-0": [1.0]}, "Unexpected input: 'g-0'"),
    ],
)
def test_values_that_do_not_fit(server, columns, changes, message):
    answer = server.post(f"{MODEL}:predict", json=one(columns, **changes))
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error"),
        (b"{", "JSON Parse error"),
        (b"[1]", "expected an object"),
        (b"\xff\xfe", "JSON Parse error"),
        (b"[" * 100_000, "JSON Parse error"),
        (b'{"NaN":' + b"[" * 100_000, "JSON Parse error"),
        (b"{}", "Missing 'inputs' or 'instances' key"),
        (b'{"inputs": {}, "instances": []}', "only one of"),
        (b'{"instances": 1}', "Expecting 'instances' to be an list/array"),
        (b'{"instances": [1]}', "expecting a list of objects"),
        (b'{"instances": [{"genes": [1]}]}', "keys must be equal to"),
        (b'{"inputs": [1]}', "expecting an object"),
        (b'{"inputs": {}}', "Missing named input: cells"),
        (b'{"signature_name": "x", "inputs": {}}', 'Serving signature name: "x" not found'),
        (b'{"signature_name": 1, "inputs": {}}', "must be a string"),
    ],
)
def test_bodies_that_are_no_request(server, body, message):
    answer = server.post(f"{MODEL}:predict", data=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "'examples'"),
        ({"examples": 1}, "'examples'"),
        ({"examples": []}, "empty array"),
        ({"examples": [1]}, "Example must be JSON object"),
        ({"examples": [{"genes": [[1]]}]}, "Feature: genes"),
        ({"examples": [{"genes": None}]}, "Feature: genes"),
        ({"examples": [{"cp_time": 24.0, "x": 2**70}]}, " is required but could not be found."),
        ({"examples": [{"x": 2**63}]}, "out of range"),
        ({"examples": [{"cp_time": 24.0, "cells": [1.0]}]}, "umber of float values != expected"),
        ({"signature_name": "serving_default", "examples": [{}]}, "Expected classification signature"),
    ],
)
def test_examples_that_do_not_fit(server, body, message):
    answer = server.post(f"{MODEL}:classify", json=body)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]


def test_a_time_that_is_no_number(server, columns):
    # All else is there: the graph's checks run side by side, and whichever fails first is told.
    first, *_ = rows_of(columns)
    answer = server.post(f"{MODEL}:classify", json={"examples": [{**first, "cp_time": "x"}]})
    assert answer.status_code == 400
    assert "cp_time: expected one float or int64 in each example" in answer.json()["error"]


def test_status(server):
    answer = server.get(MODEL).json()
    versions = answer["model_version_status"]
    assert [(entry["version"], entry["state"]) for entry in versions] == [
        ("2", "AVAILABLE"),
        ("1", "AVAILABLE"),
    ]
    assert versions[0]["status"] == {"error_code": "OK", "error_message": ""}
    assert server.get(f"{MODEL}/versions/1").json()["model_version_status"] == versions[1:]
    for path, message in (
        ("/v1/models/none", "Could not find any versions of model none"),
        (f"{MODEL}/versions/9", "Could not find version 9 of model tiny"),
    ):
        answer = server.get(path)
        assert (answer.status_code, answer.json()) == (404, {"error": message})


def test_metadata(server, root):
    answer = server.get(f"{MODEL}/metadata").json()
    assert answer["model_spec"] == {"name": "tiny", "signature_name": "", "version": "2"}
    defs = answer["metadata"]["signature_def"]["signature_def"]
    assert set(defs) >= {"serving_default", "serving_examples", "classify", "explain"}
    genes = defs["serving_default"]["inputs"]["genes"]
    assert genes["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in genes["tensor_shape"]["dim"]] == ["-1", "3"]
    assert defs["classify"]["method_name"] == "tensorflow/serving/classify"
    assert server.get(f"{MODEL}/versions/1/metadata").json()["model_spec"]["version"] == "1"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/tiny/x", 400),
        ("POST", "/v1/models/tiny", 400),
        ("GET", "/v1/models/tiny:predict", 400),
        ("POST", "/v1/models/tiny:regress", 400),
        ("POST", "/v1/models/tiny:learn", 400),
        ("DELETE", "/v1/models/tiny", 400),
        ("POST", "/v1/models/tiny/versions/x:predict", 400),
        ("POST", f"/v1/models/tiny/versions/{2**64}:predict", 400),
        ("POST", "/v1/models/..%2Ftiny:predict", 400),
        ("POST", "/v1/models/%2e%2e:predict", 404),
        ("GET", "/v2", 404),
        ("GET", "/docs", 404),
        ("POST", "/healthz", 405),
    ],
)
def test_what_is_no_call(server, method, path, status):
    answer = requests.request(method, server.url + path, data=b"{}", timeout=30)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert "Traceback" not in answer.text


def test_bodies_may_be_compressed(server, columns, local):
    body = gzip.compress(json.dumps({"inputs": columns}).encode())
    answer = server.post(f"{MODEL}:predict", data=body, headers={"Content-Encoding": "gzip"})
    np.testing.assert_allclose(answer.json()["outputs"], local, atol=1e-6)
    for data, encoding, status in (
        (body[:-20], "gzip", 400),
        (b"no gzip", "gzip", 400),
        (body, "br", 415),
    ):
        answer = server.post(f"{MODEL}:predict", data=data, headers={"Content-Encoding": encoding})
        assert answer.status_code == status, answer.text
        assert "error" in answer.json()


def test_metrics_count_what_was_answered(server, columns):
    def count():
        text = server.get("/monitoring/prometheus/metrics").text
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith("moa_tf_")
        }

    def of(status, model="other"):
        labels = f'entrypoint="REST",method="predict",model="{model}",status="{status}"'
        return f"moa_tf_requests_total{{{labels}}}"

    before = count()
    server.post("/v1/models/other:predict", json={"inputs": columns})
    server.post("/v1/models/other:predict", json={})
    server.post("/v1/models/invented:predict", json={})
    after = count()
    for key in (of("OK"), of("INVALID_ARGUMENT"), of("NOT_FOUND", "")):
        assert after[key] - before.get(key, 0) == 1
    rows = 'moa_tf_rows_total{model="other",signature="serving_default"}'
    assert after[rows] - before[rows] == 9
    assert after['moa_tf_versions{model="tiny"}'] == 2
    assert not any("invented" in key for key in after)


def test_names_in_host_and_other_origins(server):
    assert server.get("/healthz").json() == {"status": "ok"}
    for host, status in (("localhost", 200), ("[::1]:80", 200), ("rebound.example", 421), ("", 421)):
        assert server.get("/healthz", headers={"Host": host}).status_code == status
    answer = server.get(MODEL, headers={"Origin": "http://elsewhere.example"})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
