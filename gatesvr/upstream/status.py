"""The meaning of a gRPC status for the request that it ended (PROTOCOL 6, 7.4)."""

from __future__ import annotations

import re

import grpc

from ..errors import ErrorCode, Outcome

__all__ = ["is_about_size", "is_fault", "is_spoken", "limit_and_size", "outcome_of", "status_of"]

_Status = grpc.StatusCode
_BY_CODE = {status.value[0]: status for status in _Status}

_CODES = {
    _Status.INVALID_ARGUMENT: ErrorCode.BAD_REQUEST,
    _Status.UNAUTHENTICATED: ErrorCode.FORBIDDEN,
    _Status.PERMISSION_DENIED: ErrorCode.FORBIDDEN,
    _Status.NOT_FOUND: ErrorCode.NO_ROUTE,
    _Status.RESOURCE_EXHAUSTED: ErrorCode.BUSY,
    _Status.UNIMPLEMENTED: ErrorCode.UNKNOWN_TYPE,
    _Status.DEADLINE_EXCEEDED: ErrorCode.DEADLINE,
}
"""The usual mapping of gRPC gateways; every other status becomes 502."""

_UNCERTAIN = frozenset(
    (_Status.UNAVAILABLE, _Status.CANCELLED, _Status.DEADLINE_EXCEEDED, _Status.INTERNAL)
)
"""gRPC itself makes these, here or in a proxy, whenever a connection or a call breaks: the service
may still have run the request."""

_MADE_BY_GRPC = re.compile(r"RST_STREAM|http2 header|Stream removed", re.IGNORECASE)
"""Texts that our gRPC library puts into statuses that services use too: for a reset stream, or for
an HTTP status from a server that does not speak gRPC."""

# C++ and Python, Go: "… message larger than max (5000005 vs. 4194304)"; Java: "gRPC message exceeds
# maximum size 4194304: 5000005"; Rust (OUT_OF_RANGE): "message length too large: found 5000005
# bytes, the limit is: 4194304 bytes"; .NET: "message exceeds the maximum configured message size".
_SIZE = re.compile(
    r"message (?:length )?(?:larger than max|exceeds (?:the )?maximum|too large)", re.IGNORECASE
)
_SIZE_STATUSES = frozenset((_Status.RESOURCE_EXHAUSTED, _Status.OUT_OF_RANGE))
_NUMBER = re.compile(r"\d{2,}")

DEFAULT_LIMIT = 4 << 20
"""Default message limit of a gRPC server, bytes."""


_FAULTS = _UNCERTAIN | {_Status.UNKNOWN, _Status.DATA_LOSS}
"""A gRPC server makes UNKNOWN of an exception in its handler."""


def status_of(code: int) -> grpc.StatusCode:
    """Return the status that has a code on the wire."""
    return _BY_CODE.get(code, _Status.UNKNOWN)


def is_fault(status: grpc.StatusCode, details: str, *, is_remote: bool = True) -> bool:
    """Return whether a status tells that the endpoint fails, not that it refuses the request.

    Args:
        status: The status.
        details: Its text.
        is_remote: False where it is known to be made on this side.
    """
    if status in _FAULTS:
        return True
    is_made = not is_remote or _MADE_BY_GRPC.search(details) is not None
    return is_made and not is_about_size(status, details)


def is_spoken(status: grpc.StatusCode, details: str, *, is_remote: bool = True) -> bool:
    """Return whether the service itself ended the call, as far as the status tells.

    Args:
        status: The call's status.
        details: Its text.
        is_remote: False where it is known to be made on this side.
    """
    return is_remote and status not in _UNCERTAIN and not _MADE_BY_GRPC.search(details)


def is_about_size(status: grpc.StatusCode, details: str) -> bool:
    """Return whether a message exceeded a gRPC limit, here or at the upstream."""
    return status in _SIZE_STATUSES and _SIZE.search(details) is not None


def limit_and_size(details: str) -> tuple[int, int] | None:
    """Return the limit and the larger size that a status text names, bytes."""
    numbers = sorted(int(text) for text in _NUMBER.findall(details))
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def outcome_of(
    status: grpc.StatusCode, details: str, request_bytes: int, *, is_remote: bool = True
) -> tuple[ErrorCode, Outcome]:
    """Return what the client learns about a call that a status ended.

    Args:
        status: The call's status.
        details: The status's text.
        request_bytes: Size of the request as sent.
        is_remote: False where the status is known to be made on this side.

    Returns:
        The wire error code and the request's outcome: DONE if the service itself ended the call,
        NOT_STARTED if the request was too large to reach it.
    """
    if is_about_size(status, details):
        numbers = _NUMBER.findall(details)
        is_request = str(request_bytes) in numbers if numbers else request_bytes > DEFAULT_LIMIT
        outcome = Outcome.NOT_STARTED if is_request else Outcome.DONE
        return ErrorCode.TOO_LARGE, outcome
    is_done = is_spoken(status, details, is_remote=is_remote)
    outcome = Outcome.DONE if is_done else Outcome.UNKNOWN
    return _CODES.get(status, ErrorCode.UPSTREAM_UNREACHABLE), outcome
