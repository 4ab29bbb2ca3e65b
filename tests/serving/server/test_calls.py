"""The gRPC calls, by the official client."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from moa_tf.serving.examples import to_examples
from moa_tf.serving.predict import raw_columns


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture
def request_of(case_all):
    def make(name="serving_default", version=None, **changes):
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = "tiny", name
        if version:
            request.model_spec.version.value = version
        for key, value in {**raw_columns(case_all.signatures), **changes}.items():
            if value is not None:
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        return request

    return make


def refused(call, request):
    with pytest.raises(grpc.RpcError) as error:
        call(request, timeout=60)
    return error.value.code(), error.value.details()


def test_predict_equals_the_model(stub, request_of, local):
    answer = stub.Predict(request_of(), timeout=60)
    np.testing.assert_allclose(tf.make_ndarray(answer.outputs["probabilities"]), local, atol=1e-6)
    assert answer.model_spec.name == "tiny"
    assert answer.model_spec.version.value == 2
    assert answer.model_spec.signature_name == "serving_default"
    other = stub.Predict(request_of(version=1), timeout=60)
    assert np.abs(tf.make_ndarray(other.outputs["probabilities"]) - local).max() > 1e-3


def test_numbers_one_by_one_and_a_constant(stub, request_of, case_all):
    request = request_of()
    for key in ("genes", "cells", "cp_time"):
        values = tf.make_ndarray(request.inputs[key])
        request.inputs[key].tensor_content = b""
        request.inputs[key].float_val.extend(values.ravel().tolist())
    one_by_one = tf.make_ndarray(stub.Predict(request, timeout=60).outputs["probabilities"])
    content = tf.make_ndarray(stub.Predict(request_of(), timeout=60).outputs["probabilities"])
    np.testing.assert_array_equal(one_by_one, content)
    hours = request.inputs["cp_time"]
    del hours.float_val[1:]  # stands for all
    again = tf.make_ndarray(stub.Predict(request, timeout=60).outputs["probabilities"])
    same = np.full(9, hours.float_val[0], np.float32)
    expected = tf.make_ndarray(stub.Predict(request_of(cp_time=same), timeout=60).outputs["probabilities"])
    np.testing.assert_array_equal(again, expected)


def test_explain_and_an_output_filter(stub, request_of):
    request = request_of("explain")
    assert set(stub.Predict(request, timeout=60).outputs) == {"importance", "target", "pixels"}
    request.output_filter.append("target")
    answer = stub.Predict(request, timeout=60)
    assert set(answer.outputs) == {"target"}
    assert tf.make_ndarray(answer.outputs["target"]).dtype == np.int32
    request.output_filter.append("nothing")
    assert refused(stub.Predict, request)[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_tensors_that_do_not_fit(stub, request_of):
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    for changes, message in (
        ({"genes": None}, "Missing but required: {genes}"),
        ({"more": np.float32([1])}, "Sent extra: {more}"),
        ({"genes": np.zeros((9, 2), np.float32)}, "genes: expected the shape [B, 3], got [9, 2]"),
        ({"genes": np.zeros((9, 3))}, "genes: expected DT_FLOAT, got DT_DOUBLE"),
        ({"cp_type": np.array(["trt_cp"])}, "expected as many rows as"),
        ({"cp_type": np.array([["trt_cp"]] * 9)}, "cp_type: expected the shape [B], got [9, 1]"),
        ({"genes": np.full((9, 3), np.inf, np.float32)}, "genes: expected finite numbers"),
    ):
        code, details = refused(stub.Predict, request_of(**changes))
        assert code == invalid
        assert message in details
    request = request_of()
    request.inputs["genes"].tensor_content = b"\0" * 7
    assert "bytes of content" in refused(stub.Predict, request)[1]
    request = request_of()
    request.inputs["genes"].tensor_content = b""
    request.inputs["genes"].tensor_shape.dim[0].size = 2**40
    assert refused(stub.Predict, request)[0] == invalid
    request.inputs["genes"].tensor_shape.dim[0].size = -1
    assert "known shape" in refused(stub.Predict, request)[1]
    request = request_of()
    request.inputs["genes"].dtype = 99
    assert "genes: expected DT_FLOAT" in refused(stub.Predict, request)[1]
    code, details = refused(stub.Predict, request_of("none"))
    assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "none" not found.')
    assert refused(stub.Predict, request_of(version=9))[0] == grpc.StatusCode.NOT_FOUND
    assert refused(stub.Predict, predict_pb2.PredictRequest()) == (invalid, "Missing ModelSpec")


def test_classify_and_multi_inference(stub, case_all, local):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "tiny"
    request.input.example_list.examples.extend(to_examples(case_all.signatures))
    result = stub.Classify(request, timeout=60).result
    for entry, expected in zip(result.classifications, local, strict=True):
        scores = {part.label: part.score for part in entry.classes}
        np.testing.assert_allclose([scores[name] for name in case_all.targets], expected, atol=1e-6)
    several = inference_pb2.MultiInferenceRequest(input=request.input)
    task = several.tasks.add(method_name="tensorflow/serving/classify")
    task.model_spec.name, task.model_spec.signature_name = "tiny", "classify"
    answer = stub.MultiInference(several, timeout=60)
    assert answer.results[0].classification_result == result
    several.tasks.add().CopyFrom(task)
    assert "Duplicate evaluation" in refused(stub.MultiInference, several)[1]
    del several.tasks[1]
    several.tasks[0].method_name = "tensorflow/serving/x"
    assert refused(stub.MultiInference, several)[0] == grpc.StatusCode.UNIMPLEMENTED
    assert "empty model name" in refused(stub.MultiInference, inference_pb2.MultiInferenceRequest())[1]
    # What all examples share is in the context, and an example's own feature wins.
    first, *_ = to_examples(case_all.signatures)
    within = classification_pb2.ClassificationRequest(model_spec=request.model_spec)
    within.input.example_list_with_context.context.CopyFrom(first)
    own = within.input.example_list_with_context.examples.add()
    own.features.feature["cp_type"].bytes_list.value.append(b"ctl_vehicle")
    answer = stub.Classify(within, timeout=60).result.classifications[0]
    assert {part.score for part in answer.classes} == {0.0}
    empty = classification_pb2.ClassificationRequest(model_spec=request.model_spec)
    assert "Input is empty" in refused(stub.Classify, empty)[1]


def test_regress_says_that_there_is_none(stub, case_all):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name = "tiny"
    request.input.example_list.examples.extend(to_examples(case_all.signatures))
    assert "Expected regression signature" in refused(stub.Regress, request)[1]


def test_metadata_and_status(stub, channel):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "tiny"
    answer = stub.GetModelMetadata(request, timeout=60)
    defs = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(defs)
    assert set(defs.signature_def) >= {"serving_default", "serving_examples", "classify", "explain"}
    assert answer.model_spec.version.value == 2
    request.metadata_field.append("x")
    assert refused(stub.GetModelMetadata, request)[1] == "Metadata field x is not supported"
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    status = get_model_status_pb2.GetModelStatusRequest()
    assert refused(models.GetModelStatus, status)[1] == "Missing ModelSpec"
    status.model_spec.name = "tiny"
    answer = models.GetModelStatus(status, timeout=60)
    kinds = get_model_status_pb2.ModelVersionStatus
    assert [(entry.version, entry.state) for entry in answer.model_version_status] == [
        (2, kinds.AVAILABLE),
        (1, kinds.AVAILABLE),
    ]
    status.model_spec.name = "none"
    assert refused(models.GetModelStatus, status)[0] == grpc.StatusCode.NOT_FOUND


def test_calls_that_are_not_answered(channel):
    for call in ("PredictionService/PredictStreamed", "SessionService/SessionRun"):
        ask = channel.unary_unary(f"/tensorflow.serving.{call}")
        with pytest.raises(grpc.RpcError) as error:
            ask(b"", timeout=60)
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_health(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "tensorflow.serving.PredictionService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.slow
def test_another_configuration_labels_versions_and_cannot_leave_the_root(start, root, request_of):
    server = start(root)
    with grpc.insecure_channel(server.grpc) as channel:
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

        def reload(text):
            config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
            return model_management_pb2.ReloadConfigRequest(config=config)

        tiny = f"""model_config_list {{ config {{ name: "tiny" base_path: "{root}/tiny" model_platform: "tensorflow"
            model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
            version_labels {{ key: "stable" value: 1 }} }} }}"""
        assert refused(stub.Predict, request_of(version=1))[0] == grpc.StatusCode.NOT_FOUND
        assert models.HandleReloadConfigRequest(reload(tiny), timeout=120).status.error_code == 0
        request = request_of()
        request.model_spec.version_label = "stable"
        assert stub.Predict(request, timeout=60).model_spec.version.value == 1
        # The other model is gone with the configuration.
        request.model_spec.name = "other"
        request.model_spec.version_label = ""
        assert refused(stub.Predict, request)[0] == grpc.StatusCode.NOT_FOUND
        code, details = refused(
            models.HandleReloadConfigRequest, reload(tiny.replace("value: 1", "value: 9"))
        )
        assert (code, "stable" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        for path in ("/etc", f"{root}/tiny/../../x", "../.."):
            code, _ = refused(models.HandleReloadConfigRequest, reload(tiny.replace(f"{root}/tiny", path)))
            assert code == grpc.StatusCode.PERMISSION_DENIED
        assert refused(models.HandleReloadConfigRequest, reload(""))[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert server.end() == 0


@pytest.mark.slow
def test_five_thousand_spoiled_messages_leave_no_mark(server, channel, stub, request_of, local):
    """Bytes by chance, from a seed, in requests of each kind."""
    from concurrent.futures import ThreadPoolExecutor

    rng = np.random.default_rng(0)
    whole = request_of().SerializeToString()
    names = ["Predict", "Classify", "MultiInference", "GetModelMetadata", "Regress"]
    raw = [channel.unary_unary(f"/tensorflow.serving.PredictionService/{name}") for name in names]
    raw.append(channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus"))

    def spoil(i):
        body = bytearray(whole)
        for place in rng.integers(len(body), size=1 + i % 4):
            body[place] = rng.integers(256)
        return bytes(body[: rng.integers(len(body))] if i % 3 == 0 else body)

    def ask(item):
        call, message = item
        try:
            call(message, timeout=60)
            return grpc.StatusCode.OK
        except grpc.RpcError as error:
            return error.code()

    messages = [(raw[i % len(raw) if i % 2 else 0], spoil(i)) for i in range(5000)]
    with ThreadPoolExecutor(8) as pool:
        codes = set(pool.map(ask, messages))
    assert {code.name for code in codes} <= {
        *("OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"),
    }
    assert not any("Traceback" in line for line in server.lines)
    answer = stub.Predict(request_of(), timeout=60)
    np.testing.assert_allclose(tf.make_ndarray(answer.outputs["probabilities"]), local, atol=1e-6)
