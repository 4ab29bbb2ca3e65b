"""The server of this project: REST and gRPC in one process, until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import threading
from collections.abc import Callable

import uvicorn

from moa_tf.errors import InputError
from moa_tf.serving.server.batching import Batcher
from moa_tf.serving.server.calls import Calls, make_server, tell_health
from moa_tf.serving.server.limits import patient_protocol
from moa_tf.serving.server.metrics import Metrics
from moa_tf.serving.server.models import Models
from moa_tf.serving.server.policies import Policy
from moa_tf.serving.server.rest import Rest
from moa_tf.serving.server.settings import Settings

BACKLOG = 2048

log = logging.getLogger("moa_tf.server")


class Embedded:
    """One server, whose parts are made on `start`.

    Args:
        policies: name -> which versions.
        settings: addresses and limits.
        threads: how many batches are computed at once.
        delay: seconds that a batch which is not full waits for more.
        poll: seconds between two looks at the disk.
        tell: called with lines for the user.
    """

    def __init__(
        self,
        policies: dict[str, Policy],
        settings: Settings,
        *,
        threads: int = 2,
        delay: float = 0.0,
        poll: float = 1.0,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.settings, self._tell = settings, tell
        self._draining = threading.Event()
        self._batcher = Batcher(threads, delay)
        self.metrics = Metrics(
            lambda: self._batcher.waiting,
            lambda: {name: len(self.models.versions(name)) for name in self.models.names()},
        )
        self.models = Models(policies, self._batcher, poll, self.metrics.computed, self._tell_health)
        self._healths = None

    def run(self) -> None:
        """Serves till SIGTERM or SIGINT, then answers what runs, and returns.

        Raises:
            InputError: an address is taken or cannot be had.
        """
        settings = self.settings
        _allow_connections(settings.connections)
        listening = _listen(settings.host, settings.port)
        calls = Calls(self.models, settings, self.metrics, [p.root for p in self.models.policies.values()])
        grpc_server = None
        if settings.grpc_port is not None:
            try:
                grpc_server, self._healths, grpc_port = make_server(calls, settings)
            except RuntimeError:
                raise InputError(
                    f"port {settings.grpc_port} (gRPC): is taken, expected a free one (--grpc-port)"
                ) from None
        self.models.start()
        for name in self.models.names():
            numbers = ", ".join(map(str, self.models.versions(name))) or "none in service"
            self._tell(f"{name}: {numbers}")
        if grpc_server is not None:
            grpc_server.start()
        self._tell_health()
        app = Rest(self.models, settings, self.metrics, self._draining.is_set).app()
        listening.listen(BACKLOG)  # who reads the address below may connect at once
        config = uvicorn.Config(
            app,
            http=patient_protocol(settings),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=max(1, round(settings.idle)),
            timeout_graceful_shutdown=max(1, round(settings.drain)),
            limit_concurrency=settings.connections,
            backlog=BACKLOG,
        )
        server = uvicorn.Server(config)
        port = listening.getsockname()[1]
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._tell(f"REST and the page on http://{shown}:{port}")
        if grpc_server is not None:
            self._tell(f"gRPC on {shown}:{grpc_port}")

        def end(number: int) -> None:
            if not self._draining.is_set():
                log.info("%s: finishing what runs", signal.Signals(number).name)
                self._draining.set()
                self._tell_health()
            server.should_exit = True

        async def serve() -> None:
            loop = asyncio.get_running_loop()
            server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, end, number)
            await server.serve([listening])

        try:
            with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                runner.run(serve())
        finally:
            if grpc_server is not None:
                grpc_server.stop(settings.drain).wait()
            self.models.close()
            self._batcher.close()

    def _tell_health(self) -> None:
        if self._healths is not None:
            tell_health(self._healths, self.models.ready and not self._draining.is_set())


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise InputError(
            f"{host}:{port}: cannot be listened on ({error.strerror}), expected a free port (--port) of this machine"
        ) from None
    listening.set_inheritable(False)
    return listening


def _allow_connections(number: int) -> None:
    """As many open files as connections need, as far as the system lets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
