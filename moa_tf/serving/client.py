"""A model that a server computes: TensorFlow Serving or `moa-tf serve`, by REST or gRPC."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import numpy as np

from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.errors import InputError
from moa_tf.serving.predict import raw_columns

SIZE = 64
"""Signatures of a request."""
ATTEMPTS = 6
"""Of each request; the last one comes some 15 s after the first."""
TIMEOUT = 120.0
AGAIN = frozenset({408, 425, 429, 502, 503, 504})
"""HTTP statuses that may be different next time."""


class ServerError(Exception):
    """The server cannot be reached, or does not do what is asked."""


@dataclass(frozen=True)
class Address:
    """Where a served model is.

    Attributes:
        scheme: `http`, `https`, `grpc` or `grpcs` (gRPC with TLS).
        netloc: host and port.
        prefix: path before `/v1/models`, of a server behind another.
        model: its name.
        place: `/versions/N` or `/labels/L`, or nothing.
    """

    scheme: str
    netloc: str
    prefix: str
    model: str
    place: str

    @property
    def url(self) -> str:
        """Of the model, for REST."""
        return f"{self.scheme}://{self.netloc}{self.prefix}/v1/models/{quote(self.model)}{self.place}"


def parse_address(text: str, model: str, version: str) -> Address:
    """Reads `http://HOST:8501[/v1/models/NAME[/versions/N|/labels/L]]` or `grpc://HOST:8500[/NAME[/…]]`.

    Args:
        text: the address.
        model: the model's name, where the address has none.
        version: its number, where the address has none; '' for the server's latest.

    Raises:
        InputError: something else.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    expected = "expected http://HOST:8501 or grpc://HOST:8500, perhaps with /v1/models/NAME behind it"
    if (
        parts.scheme not in ("http", "https", "grpc", "grpcs")
        or not parts.hostname
        or parts.query
        or parts.fragment
    ):
        raise InputError(f"--server {text}: {expected}")
    if parts.scheme.startswith("grpc") and port is None:
        raise InputError(f"--server {text}: expected a port, such as grpc://{parts.hostname}:8500")
    match = re.fullmatch(
        r"(?P<prefix>.*?)(?:(?:/v1/models)?/(?P<name>[^/:]+)(?P<place>/versions/\d+|/labels/[^/:]+)?)?/?"
        if parts.scheme.startswith("grpc")
        else r"(?P<prefix>.*?)(?:/v1/models/(?P<name>[^/:]+)(?P<place>/versions/\d+|/labels/[^/:]+)?)?/?",
        parts.path,
    )
    if match is None:
        raise InputError(f"--server {text}: {expected}")
    place = match["place"] or (f"/versions/{version}" if version and not match["name"] else "")
    name = unquote(match["name"]) if match["name"] else model
    return Address(parts.scheme, parts.netloc.rpartition("@")[2], match["prefix"], name, place)


class RemoteModel:
    """Stands where a `ServedModel` does, and has a server compute.

    Each request has a number of rows that are computed anew if it is sent again, and its answer has one place among
    the others: however often a request is repeated, no row is doubled or lost.

    Args:
        address: of the model.
        spec: the panel, as the model's export has it.
        target_names: T names.
        token: sent as `Authorization: Bearer …`, if any.
        connections: requests that are under way at once.
        tell: called with a line where a request has to be repeated.

    Raises:
        ServerError: the server does not have such a model.
    """

    def __init__(
        self,
        address: Address,
        spec: SignatureSpec,
        target_names: tuple[str, ...],
        token: str = "",
        connections: int = 4,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.address, self.spec, self.target_names = address, spec, target_names
        self._transport: _Rest | _Grpc
        self._transport = (_Grpc if address.scheme.startswith("grpc") else _Rest)(address, token)
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="requests")
        self._tell, self._end = tell, threading.Event()
        self._check(self._patiently(self._transport.shapes))

    @property
    def batch_size(self) -> int:
        return SIZE

    def predict(self, signatures: Signatures, batch_size: int | None = None) -> np.ndarray:
        """[N, T] float32 probabilities.

        Raises:
            ServerError: a request fails for good.
        """
        size, columns = batch_size or SIZE, raw_columns(signatures)
        parts = [
            {name: values[start : start + size] for name, values in columns.items()}
            for start in range(0, len(signatures), size)
        ]
        answers = self._pool.map(self._predict_part, parts)
        return np.concatenate([np.empty((0, len(self.target_names)), np.float32), *answers])

    def close(self) -> None:
        """Ends what is under way."""
        self._end.set()
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> RemoteModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _predict_part(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        rows = len(next(iter(columns.values())))
        answer = self._patiently(lambda: self._transport.predict(columns))
        if answer.shape != (rows, len(self.target_names)):
            raise ServerError(
                f"{self.address.url}: answered {list(answer.shape)} probabilities, expected "
                f"[{rows}, {len(self.target_names)}]"
            )
        return answer

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """`ask()`, again where the server was busy or could not be reached."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return ask()
            except _Later as error:
                if attempt == ATTEMPTS or self._end.is_set():
                    raise ServerError(f"{error} ({attempt} attempts)") from None
                if attempt == 2:
                    self._tell(f"{error}; trying again")
                # Clients that were refused together do not come back together.
                self._end.wait(max(error.after, 0.25 * 2**attempt * random.uniform(0.5, 1)))
        raise AssertionError

    def _check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises ServerError if the server's model has other inputs or outputs."""
        expected = {name: shape for name, (shape, _) in self.spec.inputs.items()}
        expected["probabilities"] = (len(self.target_names),)
        for name in {*expected, *shapes}:
            if expected.get(name) != shapes.get(name):
                raise ServerError(
                    f"{self.address.url}: {name}: has the shape {_shown(shapes.get(name))} there and "
                    f"{_shown(expected.get(name))} in the export, expected the same model"
                )


def _shown(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else f"[{', '.join(map(str, ('B', *shape)))}]"


class _Later(Exception):
    """Failed in a way that may pass; `after` seconds the server asks to wait."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class _Rest:
    def __init__(self, address: Address, token: str) -> None:
        import requests

        self._url, self._local = address.url, threading.local()
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._requests = requests

    def shapes(self) -> dict[str, tuple[int, ...]]:
        answer = self._ask("get", f"{self._url}/metadata")
        try:
            signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
            return {
                name: tuple(int(dim["size"]) for dim in part["tensor_shape"]["dim"][1:])
                for name, part in {**signature["inputs"], **signature["outputs"]}.items()
            }
        except (KeyError, TypeError, ValueError):
            raise ServerError(f"{self._url}/metadata: is not an answer of TensorFlow Serving's") from None

    def predict(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        body = _json({name: values for name, values in columns.items()})
        answer = self._ask("post", f"{self._url}:predict", data=body)
        try:
            return np.asarray(answer["outputs"], np.float32).reshape(-1, len(answer["outputs"][0]))
        except (KeyError, TypeError, ValueError, IndexError):
            raise ServerError(f"{self._url}:predict: is not an answer of TensorFlow Serving's") from None

    def _ask(self, method: str, url: str, **options: Any) -> Any:
        if not hasattr(self._local, "session"):
            self._local.session = self._requests.Session()  # a connection of its own for each thread
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            answer = self._local.session.request(method, url, headers=headers, timeout=TIMEOUT, **options)
        except self._requests.RequestException as error:
            raise _Later(f"{url}: cannot be reached ({_reason(error)})") from None
        if answer.status_code in AGAIN:
            after = answer.headers.get("Retry-After", "")
            raise _Later(f"{url}: {_told(answer)}", min(float(after), 30.0) if after.isdecimal() else 0.0)
        if answer.status_code != 200:
            raise ServerError(f"{url}: {_told(answer)}")
        try:
            return json.loads(answer.content)
        except ValueError:
            raise _Later(f"{url}: answered no JSON, or a part of it") from None


def _json(columns: Mapping[str, np.ndarray]) -> bytes:
    """A request by columns. JSON has no NaN, but TensorFlow Serving reads it."""
    import orjson

    plain: dict[str, Any] = {}
    for name, values in columns.items():
        if values.dtype == object:
            plain[name] = [value.decode() for value in values]
        elif np.isfinite(values).all():
            plain[name] = np.ascontiguousarray(values)
        else:
            everything = {
                key: [value.decode() for value in part] if part.dtype == object else part.tolist()
                for key, part in columns.items()
            }
            return json.dumps({"inputs": everything}).encode()
    return orjson.dumps({"inputs": plain}, option=orjson.OPT_SERIALIZE_NUMPY)


def _told(answer: Any) -> str:
    try:
        return f"{answer.status_code}, {json.loads(answer.content)['error']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.reason}"


def _reason(error: Exception) -> str:
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return type(error).__name__


class _Grpc:
    def __init__(self, address: Address, token: str) -> None:
        import grpc
        from tensorflow_serving.apis import (
            get_model_metadata_pb2,
            predict_pb2,
            prediction_service_pb2_grpc,
        )

        self._grpc, self._predict_pb2, self._metadata_pb2 = grpc, predict_pb2, get_model_metadata_pb2
        self._address = address
        self._headers = [("authorization", f"Bearer {token}")] if token else []
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if address.scheme == "grpcs":
            channel = grpc.secure_channel(address.netloc, grpc.ssl_channel_credentials(), options)
        else:
            channel = grpc.insecure_channel(address.netloc, options)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        request = self._metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._name(request.model_spec)
        answer = self._ask(self._stub.GetModelMetadata, request)
        defs = self._metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(defs)
        signature = defs.signature_def["serving_default"]
        return {
            name: tuple(dim.size for dim in part.tensor_shape.dim[1:])
            for name, part in {**signature.inputs, **signature.outputs}.items()
        }

    def predict(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        from moa_tf.serving.server.tensors import to_proto

        request = self._predict_pb2.PredictRequest()
        self._name(request.model_spec)
        for name, values in columns.items():
            to_proto(values, request.inputs[name])
        answer = self._ask(self._stub.Predict, request).outputs["probabilities"]
        shape = [dim.size for dim in answer.tensor_shape.dim]
        if answer.tensor_content:
            return np.frombuffer(answer.tensor_content, "<f4").reshape(shape)
        return np.array(answer.float_val, np.float32).reshape(shape)

    def _name(self, spec: Any) -> None:
        spec.name = self._address.model
        _, kind, value = self._address.place.split("/") if self._address.place else ("", "", "")
        if kind == "versions":
            spec.version.value = int(value)
        elif kind == "labels":
            spec.version_label = unquote(value)

    def _ask(self, call: Any, request: Any) -> Any:
        codes = self._grpc.StatusCode
        try:
            return call(request, timeout=TIMEOUT, metadata=self._headers)
        except self._grpc.RpcError as error:
            text = f"grpc://{self._address.netloc}: {error.code().name}, {error.details()}"
            if error.code() in (
                codes.UNAVAILABLE,
                codes.RESOURCE_EXHAUSTED,
                codes.DEADLINE_EXCEEDED,
                codes.ABORTED,
            ):
                raise _Later(text) from None
            raise ServerError(text) from None
