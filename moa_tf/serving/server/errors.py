"""What a request is refused with: a canonical code, as gRPC has it, and the HTTP status that goes with it."""

from __future__ import annotations

import enum


class Code(enum.IntEnum):
    """gRPC's canonical codes, of those that are answered."""

    OK = 0
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.UNAUTHENTICATED: 401,
}
"""HTTP statuses as TensorFlow Serving's REST API maps them; 500 for others."""


class Refused(Exception):
    """A request that is answered with an error.

    Attributes:
        code: the canonical code.
        message: for the client, without anything of the server's own.
        status: the HTTP status.
    """

    def __init__(self, code: Code, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.status = STATUS.get(code, 500) if status is None else status


def invalid(message: str) -> Refused:
    """The request itself is at fault."""
    return Refused(Code.INVALID_ARGUMENT, message)
