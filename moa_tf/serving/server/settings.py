"""How a server is set up."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Settings:
    """What a server accepts, and for how long it waits.

    Attributes:
        host: address to listen on.
        port: of REST and the page.
        grpc_port: of gRPC; None for none.
        token: what clients must send as `Authorization: Bearer …`, if anything.
        hosts: names in a request's Host that are answered; none for any. On loopback only its own names are: a page
            from elsewhere whose name was made to point here sends another.
        body_limit: bytes of a request's body, after it is decompressed.
        row_limit: rows of a request.
        timeout: seconds in which a request's body must have arrived, and then those in which it is computed.
        idle: seconds after which a connection that sends no request is closed.
        connections: the most at once.
        memory: bytes of bodies that are held at once.
        drain: seconds that running requests get when the server is told to end.
    """

    host: str = "127.0.0.1"
    port: int = 8501
    grpc_port: int | None = 8500
    token: str = ""
    hosts: tuple[str, ...] = ()
    body_limit: int = 64 << 20
    row_limit: int = 20_000
    timeout: float = 30.0
    idle: float = 15.0
    connections: int = 4096
    memory: int = 512 << 20
    drain: float = 20.0

    @property
    def local(self) -> bool:
        return self.host in LOOPBACK

    def allows(self, authorization: str | bytes | None) -> bool:
        """Whether a request with this header may pass, found in the same time for any wrong one."""
        if not self.token:
            return True
        given = authorization or b""
        given = given.encode() if isinstance(given, str) else given
        return hmac.compare_digest(given, f"Bearer {self.token}".encode())

    def knows(self, host: str) -> bool:
        """Whether a request for `host` (`name:port`) is meant for this server."""
        names: Sequence[str] = self.hosts or (LOOPBACK if self.local else ())
        if not names:
            return True
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        return name.strip("[]").lower() in names
