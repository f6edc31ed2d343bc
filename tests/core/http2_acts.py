"""What a server does on a stream, by random plans, and what that comes to by the rules of gRPC."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from gatesvr._core import http2

MAX_MESSAGE = 80_000
GRPC = b"application/grpc"
OK, CANCELLED, UNKNOWN, DENIED, EXHAUSTED = 0, 1, 2, 7, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = 12, 13, 14, 16
OF_HTTP = {
    400: INTERNAL,
    401: UNAUTHENTICATED,
    403: DENIED,
    404: UNIMPLEMENTED,
    **dict.fromkeys((429, 502, 503, 504), UNAVAILABLE),
}
OF_RESET = {7: UNAVAILABLE, 8: CANCELLED, 11: EXHAUSTED, 12: DENIED}
RESET_NAMES = {0: "NO_ERROR", 2: "INTERNAL_ERROR", 7: "REFUSED_STREAM", 8: "CANCEL"}

Act = tuple[Any, ...]
"""What a server does on a stream: one of

- ("info",): an informational head
- ("head", HTTP status, content-type): a response head
- ("only", HTTP status, content-type, gRPC status or None, text): a head that ends the stream
- ("data", bytes, ends the stream)
- ("trailers", gRPC status or None, text)
- ("reset", code)
- ("goaway",): the stream is above the last id of a GOAWAY
"""


@dataclass(frozen=True)
class End:
    """How a stream ends; details is None where any will do."""

    status: int
    details: str | None = None
    is_remote: bool = False
    is_unprocessed: bool = False
    message: bytes | None = None


@dataclass
class Outcome:
    """What the acts of a server come to.

    Attributes:
        seen: The kinds of the events before the end, or the messages.
        end: How the stream ends, None if it goes on.
        is_reset: Whether the client resets it.
    """

    seen: list[object] = field(default_factory=list)
    end: End | None = None
    is_reset: bool = False


def prefixed(message: bytes, flag: int = 0) -> bytes:
    """Return a message with its prefix."""
    return bytes((flag,)) + len(message).to_bytes(4) + message


def outcome(acts: list[Act], is_unary: bool) -> Outcome:
    """Return what the acts come to, by the rules of gRPC."""
    result = Outcome()
    body = bytearray()
    messages: list[bytes] = []
    is_begun = False
    for act in acts:
        match act:
            case ("head", 200, content_type) if content_type.startswith(GRPC):
                is_begun = True
                result.seen += [] if is_unary else [http2.HEADERS]
            case ("head", 200, _):
                result.end, result.is_reset = End(UNKNOWN), True
            case ("head", http_status, _):
                result.end, result.is_reset = _http_end(http_status), True
            case ("only", http_status, content_type, None, _):
                is_plain = http_status != 200
                result.end = _http_end(http_status) if is_plain else End(UNKNOWN)
            case ("only", _, _, status, text) | ("trailers", int(status), text):
                result.end = _end_of_trailers(status, text, body, messages, is_unary)
            case ("trailers", None, _):
                result.end = End(UNKNOWN)
            case ("reset", code):
                name = RESET_NAMES.get(code)
                details = None if name is None else f"RST_STREAM {name}"
                result.end = End(
                    OF_RESET.get(code, INTERNAL), details, is_unprocessed=code == 7 and not is_begun
                )
            case ("goaway",):
                result.end = End(UNAVAILABLE, is_unprocessed=not is_begun)
            case ("data", data, is_last):
                body += data
                result.end = _take_messages(body, messages, result.seen, is_unary)
                result.is_reset = result.end is not None
                if is_last and result.end is None:
                    result.end = End(INTERNAL)
        if result.end is not None:
            break
    return result


def _http_end(http_status: int) -> End:
    return End(OF_HTTP.get(http_status, UNKNOWN), f"HTTP status {http_status}")


def _end_of_trailers(
    status: int, text: str, body: bytearray, messages: list[bytes], is_unary: bool
) -> End:
    if status == OK and (body or (is_unary and not messages)):
        return End(INTERNAL)
    message = messages[0] if status == OK and is_unary else None
    return End(status, text, is_remote=True, message=message)


def _take_messages(
    body: bytearray, messages: list[bytes], seen: list[object], is_unary: bool
) -> End | None:
    """Move whole messages out of body; return how the stream ends if one is not allowed."""
    while len(body) >= 5:
        size = int.from_bytes(body[1:5])
        if body[0]:
            return End(INTERNAL)
        if size > MAX_MESSAGE:
            text = f"received message larger than max ({size} vs. {MAX_MESSAGE})"
            return End(EXHAUSTED, text)
        if is_unary and messages:
            return End(INTERNAL)
        if len(body) < 5 + size:
            return None
        messages.append(bytes(body[5 : 5 + size]))
        seen += [] if is_unary else messages[-1:]
        del body[: 5 + size]
    return None


def make_plan(random: Random, is_unary: bool) -> list[Act]:
    """Return what a server does on a stream: mostly a sound answer, or anything that it may."""
    plan: list[Act] = [("info",)] * (random.random() < 0.1)
    kind = random.randrange(40)
    if kind == 0:
        return [*plan, _random_reset(random)]
    if kind < 4:
        status = random.choice((OK, UNAVAILABLE, 5, None))
        http_status = random.choice((200, 200, 404, 503))
        return [*plan, ("only", http_status, GRPC, status, _random_text(random))]
    if kind < 6:
        http_status, content_type = random.choice(((404, GRPC), (302, b"a/b"), (200, b"a/b")))
        return [*plan, ("head", http_status, content_type), ("data", b"<p>", True)]
    plan.append(("head", 200, GRPC + random.choice((b"", b"+proto", b";x=y"))))
    count = random.choice((1,) * 20 + (0, 2)) if is_unary else random.randrange(4)
    body = b"".join(_random_frame(random) for _ in range(count))
    if random.random() < 0.03:
        body = body[: random.randrange(len(body) + 1)]
    if body:
        plan.append(("data", body, False))
    kind = random.randrange(20)
    if kind == 0:
        plan.append(("data", b"", True))
    elif kind == 1:
        plan.append(_random_reset(random))
    elif kind < 5:
        plan.append(("trailers", random.choice((None, 3, 5, 14)), _random_text(random)))
    else:
        plan.append(("trailers", OK, ""))
    return plan


def _random_reset(random: Random) -> Act:
    return "reset", random.choice((0, 2, 7, 8, 11, 12, 13, 999))


def _random_text(random: Random) -> str:
    return random.choice(("", "it failed", "100 % f\u00fcr dich", "a\nb", "%41"))


def _random_frame(random: Random) -> bytes:
    return prefixed(random_message(random), flag=int(random.random() < 0.01))


def random_message(random: Random) -> bytes:
    sizes = (0, 0, 1, 9, 100, 100, 1_000, 17_000, 70_000, MAX_MESSAGE, MAX_MESSAGE + 1)
    weights = (4, 4, 4, 4, 4, 4, 4, 2, 1, 1, 1)
    return random.randbytes(random.choices(sizes, weights)[0])
