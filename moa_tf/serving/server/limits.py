"""What keeps one client from taking the server from the others: limits on bodies, connections and time."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.requests import ClientDisconnect, Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from moa_tf.serving.server.errors import Code, Refused
from moa_tf.serving.server.settings import Settings


def patient_protocol(settings: Settings) -> type[HttpToolsProtocol]:
    """Uvicorn's HTTP, with a limit on the time till a request's headers are there, the first one's included."""

    class Protocol(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def on_headers_complete(self) -> None:
            self._stop()
            super().on_headers_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._wait()

        def _wait(self) -> None:
            self._stop()
            if self.transport is not None and not self.transport.is_closing():
                self._deadline = self.loop.call_later(settings.idle, self._close)

        def _stop(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _close(self) -> None:
            running = self.cycle is not None and not self.cycle.response_complete
            if not running and not self.transport.is_closing():
                self.transport.close()

    return Protocol


class Budget:
    """Bytes that all requests together may hold."""

    def __init__(self, total: int) -> None:
        self._left = total

    @contextmanager
    def share(self) -> Iterator[_Share]:
        share = _Share(self)
        try:
            yield share
        finally:
            self._left += share.taken


class _Share:
    def __init__(self, budget: Budget) -> None:
        self.taken, self._budget = 0, budget

    def take(self, size: int) -> None:
        if size > self._budget._left:
            raise Refused(Code.UNAVAILABLE, "too busy: too many large requests at once")
        self._budget._left -= size
        self.taken += size


async def read_body(request: Request, settings: Settings, share: _Share) -> bytes:
    """The body, decompressed.

    Raises:
        Refused: too long, too slow, in another encoding than gzip, or more than the server can hold now.
    """
    limit = settings.body_limit
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_long(limit)
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip"):
        raise Refused(Code.INVALID_ARGUMENT, f"Content-Encoding {encoding[:40]!r}: expected gzip", 415)
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16) if encoding == "gzip" else None
    chunks, size = [], 0
    try:
        async with asyncio.timeout(settings.timeout):
            async for chunk in request.stream():
                if inflater is not None and chunk:
                    # One byte more than may be shows that there is more.
                    chunk = _inflate(inflater, chunk, limit + 1 - size)
                size += len(chunk)
                if size > limit:
                    raise _too_long(limit)
                share.take(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise Refused(
            Code.DEADLINE_EXCEEDED, f"the body did not arrive within {settings.timeout:g} s", 408
        ) from None
    except ClientDisconnect:
        raise Refused(Code.INVALID_ARGUMENT, "the client has gone", 400) from None
    if inflater is not None and not inflater.eof and size:
        raise Refused(Code.INVALID_ARGUMENT, "the body's gzip is cut short")
    return b"".join(chunks) if len(chunks) != 1 else chunks[0]


def _inflate(inflater: Any, chunk: bytes, most: int) -> bytes:
    try:
        return inflater.decompress(chunk, most)
    except zlib.error:
        raise Refused(Code.INVALID_ARGUMENT, "the body is not gzip, as Content-Encoding says") from None


def inflate(body: bytes, limit: int) -> bytes:
    """A gzip file's content.

    Raises:
        Refused: it is none, or longer than `limit` bytes.
    """
    content = _inflate(zlib.decompressobj(zlib.MAX_WBITS | 16), body, limit + 1)
    if len(content) > limit:
        raise _too_long(limit)
    return content


def _too_long(limit: int) -> Refused:
    return Refused(
        Code.INVALID_ARGUMENT, f"the body is longer than the {limit:,} bytes that are accepted", 413
    )
