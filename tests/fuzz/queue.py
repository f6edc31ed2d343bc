"""OrderedQueue beside its model: the bytes are calls, and both give the same answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from gatesvr._core.queue import BULK, KEEP
from tests.core.queue_pair import BODIES, Message, Pair

from .reader import Reader

MAX_CALLS = 150


def check(data: bytes) -> None:
    """Make the calls, compare after each, and replay everything at the end."""
    reader = Reader(data)
    pair = Pair(reader.pick((1, 4, 16, 64)), reader.pick((1, 300, 5000)))
    for _ in range(MAX_CALLS):
        if reader.is_empty:
            break
        reader.pick(_CALLS)(pair, reader)
        pair.check()
    pair.drain()


def _message(pair: Pair, reader: Reader) -> Message:
    """Return a message: its kind, its body, and its expiry in eighths of a second from now."""
    kind, body = reader.number(), BODIES[reader.number() % len(BODIES)]
    msg_id = (0, 1, 127, 2**32 - 1)[kind >> 6]
    if kind & 1:
        return msg_id, body
    flags = (0, KEEP, BULK, BULK | KEEP)[kind >> 1 & 3]
    if kind & 8:
        return msg_id, body, flags
    return msg_id, body, flags, pair.now + reader.number() / 8


def _batch(pair: Pair, reader: Reader) -> list[Message]:
    return [_message(pair, reader) for _ in range(reader.number() % 6)]


def _fill(pair: Pair, reader: Reader) -> None:
    slot = pair.model.first_slot + reader.number() % 9
    pair.call("fill", slot, _batch(pair, reader))


def _append_one(pair: Pair, reader: Reader) -> None:
    message = _message(pair, reader)
    is_forced = bool(reader.number() & 1)
    pair.call("append_one", *message, *(0, 0.0)[len(message) - 2 :], is_forced)


def _burst(pair: Pair, reader: Reader) -> None:
    pair.call("append", [_message(pair, reader)] * (reader.number() % 60), True)


def _ack(pair: Pair, reader: Reader) -> None:
    pair.call("ack_up_to", max(0, pair.model.last_acked_seq + reader.number() % 64 - 1))


def _behind(name: str) -> Callable[[Pair, Reader], None]:
    def call(pair: Pair, reader: Reader) -> None:
        pair.call(name, max(0, pair.model.next_expected_seq - reader.number() % 64 + 2))

    return call


def _expire(pair: Pair, reader: Reader) -> None:
    pair.now += reader.number() / 8  # whole ms: a move rounds what is left of an expiry up to them
    pair.call("expire", pair.now)


def _stop(pair: Pair, reader: Reader) -> None:
    if reader.number() == 255:
        pair.call("stop")


_CALLS: tuple[Callable[[Pair, Reader], object], ...] = (
    lambda pair, reader: pair.call("reserve"),
    _fill,
    lambda pair, reader: pair.call("append", _batch(pair, reader), bool(reader.number() & 1)),
    _append_one,
    lambda pair, reader: pair.call("take", reader.pick((-1, 0, 20, 50, 400, 1 << 20))),
    _ack,
    _behind("rewind"),
    _behind("conflate"),
    _expire,
    lambda pair, reader: pair.call("drop_oldest", reader.number() % 20, reader.number(2)),
    lambda pair, reader: pair.set("reserved", reader.number() % 6),
    lambda pair, reader: pair.set("can_skip", reader.number() & 1),
    _burst,
    _stop,
    lambda pair, _: pair.move(),
)


def seeds() -> Iterator[bytes]:
    """Yield random lives of a queue: short ones, long ones, and some of few kinds of calls."""
    for seed in range(12):
        yield Random(seed).randbytes(40 * (1 + seed % 4))
    kinds = {"slots": (0, 1, 4, 5), "plain": (2, 4, 5, 8), "skips": (3, 7, 9, 4, 5), "full": (2, 3)}
    for name, calls in kinds.items():
        random = Random(name)
        steps = (bytes((random.choice(calls),)) + random.randbytes(3) for _ in range(30))
        yield random.randbytes(2) + b"".join(steps)
