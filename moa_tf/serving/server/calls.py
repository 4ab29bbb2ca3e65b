"""The gRPC side: TensorFlow Serving's PredictionService and ModelService, and gRPC's health service."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
)

from moa_tf.serving.server.errors import Code, Refused, invalid
from moa_tf.serving.server.metrics import Metrics
from moa_tf.serving.server.models import Models
from moa_tf.serving.server.policies import policies_of
from moa_tf.serving.server.settings import Settings
from moa_tf.serving.server.tensors import Arrays, check_limit, count_rows, from_proto, to_proto
from moa_tf.serving.server.version import CLASSIFY, DEFAULT, Version, examples_of

log = logging.getLogger("moa_tf.server")

THREADS = 64
"""Calls that are answered at once; of these most wait for their batch."""
SIGNATURE_DEF = "signature_def"
METHODS = {"tensorflow/serving/classify": CLASSIFY, "tensorflow/serving/regress": ""}
SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")


class Calls:
    """The answers of PredictionService and ModelService, by the names of their calls.

    Args:
        models: in service.
        settings: limits and the token.
        metrics: told of each answer.
        roots: the directories that models may be taken from by a call.
    """

    def __init__(self, models: Models, settings: Settings, metrics: Metrics, roots: Sequence[Path]) -> None:
        self._models, self._settings, self._metrics = models, settings, metrics
        self._roots = [root.resolve() for root in roots]

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer("predict", request.model_spec, context, lambda: self._predict(request, context))

    def Classify(self, request: Any, context: grpc.ServicerContext) -> Any:
        def work() -> Any:
            response = classification_pb2.ClassificationResponse()
            with _Using(self._models, request) as version:
                self._classify(version, request.model_spec, request.input, response.result, context)
                _name(response.model_spec, version, request.model_spec.signature_name or DEFAULT)
            return response

        return self._answer("classify", request.model_spec, context, work)

    def Regress(self, request: Any, context: grpc.ServicerContext) -> Any:
        def work() -> Any:
            with _Using(self._models, request):
                raise _no_regression()

        return self._answer("regress", request.model_spec, context, work)

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> Any:
        spec = request.tasks[0].model_spec if request.tasks else predict_pb2.PredictRequest().model_spec
        return self._answer("multi_inference", spec, context, lambda: self._multi_inference(request, context))

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        def work() -> Any:
            if not request.metadata_field:
                raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
            for name in request.metadata_field:
                if name != SIGNATURE_DEF:
                    raise invalid(f"Metadata field {name} is not supported")
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            with _Using(self._models, request) as version:
                defs = get_model_metadata_pb2.SignatureDefMap()
                for name, signature in version.signature_defs.items():
                    defs.signature_def[name].CopyFrom(signature)
                response.metadata[SIGNATURE_DEF].Pack(defs)
                _name(response.model_spec, version, "")
            return response

        return self._answer("metadata", request.model_spec, context, work)

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        def work() -> Any:
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            response = get_model_status_pb2.GetModelStatusResponse()
            for number, status in self._models.statuses(
                request.model_spec.name, *_place(request.model_spec)
            ).items():
                entry = response.model_version_status.add(version=number, state=status.state)
                if status.error:
                    entry.status.error_code, entry.status.error_message = Code.UNKNOWN.value, status.error
                else:
                    entry.status.error_code = Code.OK.value
            return response

        return self._answer("status", request.model_spec, context, work)

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> Any:
        def work() -> Any:
            self._models.configure(policies_of(request.config, within=self._roots))
            response = model_management_pb2.ReloadConfigResponse()
            response.status.error_code = Code.OK.value
            return response

        return self._answer("reload", predict_pb2.PredictRequest().model_spec, context, work)

    def _predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _Using(self._models, request) as version:
            name = request.model_spec.signature_name or DEFAULT
            if name not in version.signatures:
                raise Refused(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
            signature = version.signature(name)
            missing = [key for key in signature.inputs if key not in request.inputs]
            extra = [key for key in request.inputs if key not in signature.inputs]
            if missing or extra:
                raise invalid(
                    f"input size does not match signature: {len(request.inputs)}!={len(signature.inputs)}. "
                    f"Sent extra: {{{','.join(extra[:5])}}}. Missing but required: {{{','.join(missing)}}}."
                )
            limit = self._settings.row_limit
            inputs = {
                key: from_proto(key, request.inputs[key], expected, limit)
                for key, expected in signature.inputs.items()
            }
            outputs = self._compute(version, name, inputs, context)
            wanted = list(request.output_filter) or list(outputs)
            response = predict_pb2.PredictResponse()
            for key in wanted:
                if key not in outputs:
                    raise invalid(f"output tensor alias not found in signature: {key}")
                to_proto(outputs[key], response.outputs[key])
            _name(response.model_spec, version, name)
            return response

    def _classify(
        self, version: Version, spec: Any, given: Any, result: Any, context: grpc.ServicerContext
    ) -> None:
        # TensorFlow Serving takes `serving_default` where no signature is named, which here is no classification.
        name = spec.signature_name or CLASSIFY
        if name not in version.signatures:
            raise invalid(f"No signature was found with the name: {name}")
        if name != CLASSIFY:
            raise invalid(
                "Expected classification signature method_name to be tensorflow/serving/classify. "
                "Was: tensorflow/serving/predict"
            )
        outputs = self._compute(version, name, {"inputs": examples_of(given)}, context)
        for labels, scores in zip(outputs["classes"].tolist(), outputs["scores"].tolist(), strict=True):
            entry = result.classifications.add()
            for label, score in zip(labels, scores, strict=True):
                entry.classes.add(label=label.decode(), score=score)

    def _multi_inference(self, request: Any, context: grpc.ServicerContext) -> Any:
        names = {task.model_spec.name for task in request.tasks}
        signatures = [task.model_spec.signature_name or DEFAULT for task in request.tasks]
        if "" in names or not names:
            raise invalid("Found ModelSpec with an empty model name.")
        if len(names) > 1:
            raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        if len(set(signatures)) < len(signatures):
            raise invalid("Duplicate evaluation of signature")
        response = inference_pb2.MultiInferenceResponse()
        with _Using(self._models, request.tasks[0]) as version:
            for task in request.tasks:
                if task.method_name not in METHODS:
                    raise Refused(
                        Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}"
                    )
                if not METHODS[task.method_name]:
                    raise _no_regression()
                result = response.results.add()
                self._classify(version, task.model_spec, request.input, result.classification_result, context)
                _name(result.model_spec, version, task.model_spec.signature_name or CLASSIFY)
        return response

    def _compute(self, version: Version, name: str, inputs: Arrays, context: grpc.ServicerContext) -> Arrays:
        rows = count_rows(inputs)
        check_limit(rows, self._settings.row_limit)
        left = context.time_remaining()
        seconds = self._settings.timeout if left is None else min(left, self._settings.timeout)
        future = version.signature(name).submit(inputs, rows)
        try:
            return future.result(max(seconds, 0.0))
        except (NotInTime, CancelledError):
            future.cancel()
            raise Refused(Code.DEADLINE_EXCEEDED, f"not computed within {seconds:.3g} s") from None

    def _answer(self, method: str, spec: Any, context: grpc.ServicerContext, work: Callable[[], Any]) -> Any:
        start, status = time.perf_counter(), "OK"
        try:
            return work()
        except Refused as error:
            status = error.code.name
            context.abort(getattr(grpc.StatusCode, status), error.message)
        except Exception:
            status = Code.INTERNAL.name
            log.exception("answering %s failed", method)
            context.abort(grpc.StatusCode.INTERNAL, "internal error")
        finally:
            known = spec.name if spec.name in self._models.policies else ""
            self._metrics.answered(known, method, "GRPC", status, time.perf_counter() - start)


class _Using:
    """Holds the version that a request is for."""

    def __init__(self, models: Models, request: Any) -> None:
        self._models, self._request = models, request

    def __enter__(self) -> Version:
        if not self._request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        spec = self._request.model_spec
        self._version = self._models.acquire(spec.name, *_place(spec))
        return self._version

    def __exit__(self, *_: object) -> None:
        self._models.release(self._version)


class _Token(grpc.ServerInterceptor):
    """Refuses calls without the server's token, but for the health service's."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

        def refuse(request: Any, context: grpc.ServicerContext) -> None:
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED, "expected the server's token: authorization: Bearer TOKEN"
            )

        self._refuse = grpc.unary_unary_rpc_method_handler(refuse)

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        if details.method.startswith("/grpc.health."):
            return continuation(details)
        given = next((value for key, value in details.invocation_metadata if key == "authorization"), None)
        return continuation(details) if self._settings.allows(given) else self._refuse


def make_server(calls: Calls, settings: Settings) -> tuple[grpc.Server, health.HealthServicer, int]:
    """A gRPC server that is not started, its health service, and the port that it is bound to.

    Raises:
        RuntimeError: the port is taken.
    """
    limit = settings.body_limit
    server = grpc.server(
        ThreadPoolExecutor(THREADS, thread_name_prefix="grpc"),
        interceptors=[_Token(settings)] * bool(settings.token),
        options=[
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", 256),
            ("grpc.max_metadata_size", 16 << 10),
            ("grpc.so_reuseport", 0),  # or a second server would share the port in silence
            ("grpc.keepalive_time_ms", int(1000 * max(settings.idle, 1))),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.max_connection_idle_ms", 300_000),
        ],
    )
    server.add_generic_rpc_handlers(
        [
            _handlers(file.services_by_name[name], calls)
            for file, name in (
                (prediction_service_pb2.DESCRIPTOR, "PredictionService"),
                (model_service_pb2.DESCRIPTOR, "ModelService"),
            )
        ]
    )
    healths = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return server, healths, server.add_insecure_port(f"{host}:{settings.grpc_port}")


def _handlers(service: Any, calls: Calls) -> grpc.GenericRpcHandler:
    """A service's calls by their descriptor, with requests that are parsed here.

    Where gRPC's server parses them, one that cannot be parsed keeps its stream for good, and a client that has sent
    as many as there may be streams is not served any more.
    """

    def handler(method: Any) -> grpc.RpcMethodHandler:
        kind, answer = GetMessageClass(method.input_type), getattr(calls, method.name)

        def behaviour(message: bytes, context: grpc.ServicerContext) -> Any:
            try:
                request = kind.FromString(message)
            except DecodeError:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"expected a {method.input_type.full_name}")
            return answer(request, context)

        return grpc.unary_unary_rpc_method_handler(
            behaviour, response_serializer=lambda response: response.SerializeToString()
        )

    methods = {method.name: handler(method) for method in service.methods if hasattr(calls, method.name)}
    return grpc.method_handlers_generic_handler(service.full_name, methods)


def tell_health(healths: health.HealthServicer, ready: bool) -> None:
    """Sets what the health service answers."""
    status = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
    for service in SERVICES:
        healths.set(service, status)


def _place(spec: Any) -> tuple[int | None, str | None]:
    return (spec.version.value if spec.HasField("version") else None), spec.version_label or None


def _name(spec: Any, version: Version, signature: str) -> None:
    spec.name, spec.signature_name = version.model, signature
    spec.version.value = version.number


def _no_regression() -> Refused:
    return invalid(
        "Expected regression signature method_name to be tensorflow/serving/regress; this model has none"
    )
