"""OrderedQueue and its model side by side. For the tests and the fuzzer."""

from __future__ import annotations

from typing import Any

from gatesvr._core.queue import OrderedQueue
from gatesvr._pb.cluster_pb2 import MovedQueue
from gatesvr.errors import GatesvrError

from .queue_model import OrderedQueueModel

BODIES = (b"", b"x", b"body of a push", bytes(130), bytes(range(200)))
SEEN = (
    "next_expected_seq",
    "last_sent_seq",
    "last_acked_seq",
    "stopped",
    "waiting_slots",
    "open_slots",
    "unsent",
    "queued_bytes",
    "kept",
    "bulk",
    "bulk_bytes",
)

Message = tuple[int, bytes] | tuple[int, bytes, int] | tuple[int, bytes, int, float]


class Pair:
    """The queue and its model, which get the same calls and must give the same answers."""

    def __init__(self, max_queue_size: int, max_queue_bytes: int) -> None:
        self.core = OrderedQueue("", max_queue_size, max_queue_bytes)
        self.model = OrderedQueueModel(max_queue_size, max_queue_bytes)
        self.now = 1.0

    def set(self, name: str, value: int) -> None:
        setattr(self.core, name, value)
        setattr(self.model, name, value)

    def call(self, name: str, *args: Any) -> Any:
        answers = []
        for queue in (self.core, self.model):
            try:
                answers.append(getattr(queue, name)(*args))
            except (GatesvrError, ValueError) as error:
                answers.append(type(error))
        assert answers[0] == answers[1], (name, args)
        return answers[0]

    def move(self) -> None:
        """Let another queue go on from the bytes of this one; the model does not move."""
        before = self.core
        if before.stopped:
            return
        data = MovedQueue(**before.export(self.now)).SerializeToString()
        self.core = OrderedQueue("", before.max_queue_size, before.max_queue_bytes)
        self.core.reserved, self.core.can_skip = before.reserved, before.can_skip
        self.core.restore(MovedQueue.FromString(data), self.now)

    def check(self) -> None:
        self.core._check()
        assert len(self.core) == len(self.model)
        for name in SEEN:
            assert getattr(self.core, name) == getattr(self.model, name), name
        assert self.core.counters() == self.model.counters()
        # What is overdue when a queue moves stays so, and says no more for how long.
        assert self.core.next_expiry() <= max(self.now, self.model.next_expiry())

    def drain(self) -> None:
        """Replay everything, and compare."""
        self.call("rewind", 0)
        self.call("take", 1 << 30)
        self.check()
