"""NotifyOrderingManager: notifies bound to a request's answer; and PushResult, a push's outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .._core.queue import KEEP

__all__ = [
    "BUSY",
    "BUSY_SUSPENDED",
    "MOVING",
    "NOT_FOUND",
    "NO_SUCH_REQUEST",
    "OK",
    "TOO_LARGE",
    "TOO_LATE",
    "BundleMessage",
    "NotifyOrderingManager",
    "PushResult",
]

BUSY_RETRY_MS = 200
"""retry_after_ms while the client has a connection: a few round trips."""
MOVING_RETRY_MS = 50
"""retry_after_ms while the session moves to another process."""
SUSPENDED_RETRY_MS = 1_000
"""retry_after_ms while it has none."""

BundleMessage = tuple[int, bytes, int]
"""(msg_id, body, flags), as OrderedQueue takes it."""


class PushResult(NamedTuple):
    """The outcome of a push.

    Attributes:
        error_code: Empty if it was taken, else NOT_FOUND, BUSY, TOO_LARGE, TOO_LATE or
            NO_SUCH_REQUEST (PROTOCOL 7.5). MOVING is for other processes of the gateway alone: this
            one does not own the session, and has kept nothing of the push.
        retry_after_ms: With BUSY and MOVING: when trying again may help.
    """

    error_code: str = ""
    retry_after_ms: int = 0

    @property
    def is_ok(self) -> bool:
        """Whether it was taken, or repeats one that was."""
        return not self.error_code


OK = PushResult()
NOT_FOUND = PushResult("NOT_FOUND")
TOO_LARGE = PushResult("TOO_LARGE")
TOO_LATE = PushResult("TOO_LATE")
NO_SUCH_REQUEST = PushResult("NO_SUCH_REQUEST")
BUSY = PushResult("BUSY", BUSY_RETRY_MS)
BUSY_SUSPENDED = PushResult("BUSY", SUSPENDED_RETRY_MS)
MOVING = PushResult("MOVING", MOVING_RETRY_MS)


class NotifyOrderingManager:
    """One session's bound notifies, by the client seq of their request (PROTOCOL 7.7).

    Args:
        max_notifies: Notifies bound to one request at most, those that its answer carries included.
        max_bytes: Bytes of the bodies held at most.

    Attributes:
        held_bytes: Bytes of the bodies held.
        headers: Header of the answer and of all its notifies by client seq, where they get one more
            from the gateway: field 5 of a push, serialized.
    """

    __slots__ = ("_after", "_before", "_max_bytes", "_max_notifies", "headers", "held_bytes")

    def __init__(self, max_notifies: int = 64, max_bytes: int = 256 << 10) -> None:
        self._before: dict[int, list[bytes]] = {}
        self._after: dict[int, list[bytes]] = {}
        self._max_notifies = max_notifies
        self._max_bytes = max_bytes
        self.held_bytes = 0
        self.headers: dict[int, bytes] = {}

    def __len__(self) -> int:
        """Return the number of notifies held."""
        return self.before + self.after

    def of(self, client_seq: int) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Return the bodies held for the answer to client_seq: those before it, those behind."""
        return self._before.get(client_seq, ()), self._after.get(client_seq, ())

    def restore(self, client_seq: int, before: Sequence[bytes], after: Sequence[bytes]) -> None:
        """Hold notifies that another process had accepted; bounds do not apply."""
        for side, bodies in ((self._before, before), (self._after, after)):
            if bodies:
                side[client_seq] = list(bodies)
                self.held_bytes += sum(map(len, bodies))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held, no header either."""
        return not (self._before or self._after or self.headers)

    @property
    def before(self) -> int:
        """Notifies held that go before their answer."""
        return sum(map(len, self._before.values()))

    @property
    def after(self) -> int:
        """Notifies held that go behind their answer."""
        return sum(map(len, self._after.values()))

    def add(self, client_seq: int, body: bytes, is_before: bool) -> bool:
        """Hold a notify for the answer to client_seq; return False if a bound forbids it."""
        held = len(self._before.get(client_seq, ())) + len(self._after.get(client_seq, ()))
        if held >= self._max_notifies or self.held_bytes + len(body) > self._max_bytes:
            return False
        side = self._before if is_before else self._after
        side.setdefault(client_seq, []).append(body)
        self.held_bytes += len(body)
        return True

    def bundle(
        self,
        client_seq: int,
        msg_id: int,
        body: bytes,
        before: Sequence[bytes] = (),
        after: Sequence[bytes] = (),
        max_body_bytes: int = 1 << 30,
    ) -> tuple[list[BundleMessage], int]:
        """Return an answer amid its notifies, and the number of carried ones that found no room.

        The order is [before pushed, before carried, answer, after pushed, after carried]. Pushed
        notifies were accepted and always stay; carried ones take the room that is left.

        Args:
            client_seq: The request's client seq; its notifies are no longer held afterwards.
            msg_id: The request's msg_id.
            body: The answer's.
            before: Bodies that the answer carries, to go before it.
            after: Bodies that it carries, to go behind it.
            max_body_bytes: The largest body that the client takes.
        """
        pushed_before = self._before.pop(client_seq, None) or []
        pushed_after = self._after.pop(client_seq, None) or []
        size = sum(map(len, pushed_before)) + sum(map(len, pushed_after))
        pushed = len(pushed_before) + len(pushed_after)
        room = self._max_notifies - pushed
        room_bytes = self._max_bytes - self.held_bytes
        self.held_bytes -= size
        header = self.headers.pop(client_seq, b"")
        messages: list[BundleMessage] = []

        def carry(notifies: Sequence[bytes]) -> None:
            nonlocal room, room_bytes
            for notify in notifies:
                if room > 0 and len(notify) <= min(room_bytes, max_body_bytes):
                    messages.append((0, notify, KEEP))
                    room -= 1
                    room_bytes -= len(notify)

        messages.extend((0, notify, KEEP) for notify in pushed_before)
        carry(before)
        messages.append((msg_id, body, KEEP))
        messages.extend((0, notify, KEEP) for notify in pushed_after)
        carry(after)
        if header:
            # Where the client takes no more bytes, the message is worth more than its header.
            room_bytes = max_body_bytes - len(header)
            messages = [
                (number, body + header if len(body) <= room_bytes else body, flags)
                for number, body, flags in messages
            ]
        return messages, pushed + len(before) + 1 + len(after) - len(messages)
