"""OrderedQueue in plain Python: a heapq of waiting slots and a dict of sent messages.

It is the specification for the state machine tests, and the yardstick of the benchmarks.
"""

from __future__ import annotations

import heapq
import math
import struct
from collections.abc import Iterable

from gatesvr.errors import ProtocolError, QueueFull, SessionError

KEEP = 1
BULK = 2
EXPIRED = 1
OVERFLOW = 2
CONFLATED = 6
PUSH_SKIP = 7

Message = tuple[int, bytes] | tuple[int, bytes, int] | tuple[int, bytes, int, float]
Kept = tuple[int, bytes, int, float]


def varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def frame(msg_id: int, seq: int, body: bytes) -> bytes:
    """Return a ServerPush frame: length, msg_id, seq_id, the other fields (PROTOCOL 1.3)."""
    head = b"\x10" + varint(seq)
    if msg_id:
        head = b"\x08" + varint(msg_id) + head
    return struct.pack(">I", len(head) + len(body)) + head + body


def skip_frame(first: int, last: int, reason: int) -> bytes:
    """Return the SKIP frame for the seqs from first to last (PROTOCOL 2.6)."""
    skip = b"\x08" + varint(first) + b"\x10" + varint(last - first + 1) + b"\x18" + varint(reason)
    return frame(0, last, b"\x18" + varint(PUSH_SKIP) + b"\x22" + varint(len(skip)) + skip)


class OrderedQueueModel:
    """The same methods as OrderedQueue, one dict entry a message or mark."""

    def __init__(self, max_queue_size: int = 1024, max_queue_bytes: int = 4 << 20) -> None:
        self.max_queue_size = max_queue_size
        self.max_queue_bytes = max_queue_bytes
        self.reserved = 0
        self.can_skip = True
        self.next_expected_seq = 1
        self.last_acked_seq = 0
        self.last_sent_seq = 0
        self.queued_bytes = 0
        self.stopped = False
        self.send_seq = 1
        self.sent: dict[int, Kept] = {}
        self.marks: dict[int, int] = {}  # reason by seq
        self.first_slot = 1
        self.next_slot = 1
        self.heap: list[tuple[int, list[Kept]]] = []
        self.filled_early: set[int] = set()
        self.waiting_messages = 0
        self.counts = dict.fromkeys(
            (
                "appended",
                "filled",
                "released",
                "taken",
                "taken_bytes",
                "acked",
                "replayed",
                "expired",
                "dropped",
                "conflated",
                "refused",
                "skips",
            ),
            0,
        )

    def __len__(self) -> int:
        return len(self.sent)

    @property
    def unsent(self) -> int:
        return self.next_expected_seq - self.send_seq

    @property
    def open_slots(self) -> int:
        return self.next_slot - self.first_slot

    @property
    def waiting_slots(self) -> int:
        return len(self.heap)

    @property
    def kept(self) -> int:
        in_ring = sum(1 for message in self.sent.values() if message[2] & KEEP)
        return in_ring + self.waiting_messages

    @property
    def bulk(self) -> int:
        return sum(1 for message in self.sent.values() if message[2] & (KEEP | BULK) == BULK)

    @property
    def bulk_bytes(self) -> int:
        bodies = [
            message[1] for message in self.sent.values() if message[2] & (KEEP | BULK) == BULK
        ]
        return sum(map(len, bodies))

    def counters(self) -> dict[str, int]:
        return dict(self.counts)

    def reserve(self) -> int:
        if self.stopped:
            raise SessionError("queue is stopped")
        self.next_slot += 1
        return self.next_slot - 1

    def fill(self, slot: int, messages: Iterable[Message]) -> int:
        if self.stopped:
            return 0
        if not self.first_slot <= slot < self.next_slot or slot in self.filled_early:
            raise ValueError(slot)
        kept = [self._read(message, KEEP) for message in messages]
        heapq.heappush(self.heap, (slot, kept))
        self.filled_early.add(slot)
        self.queued_bytes += sum(len(message[1]) for message in kept)
        self.waiting_messages += len(kept)
        self.counts["filled"] += 1
        released = 0
        while self.heap and self.heap[0][0] == self.first_slot:
            slot, kept = heapq.heappop(self.heap)
            self.filled_early.remove(slot)
            self.first_slot += 1
            self.waiting_messages -= len(kept)
            self._release(kept)
            released += len(kept)
        self.counts["released"] += released
        return released

    def append(self, messages: Iterable[Message], force: bool = False) -> int:
        if self.stopped:
            raise SessionError("queue is stopped")
        kept = [self._read(message, 0) for message in messages]
        size = sum([len(message[1]) for message in kept])
        if kept and not force:
            count = len(self.sent) + self.waiting_messages + self.reserved + len(kept)
            if count > self.max_queue_size or self.queued_bytes + size > self.max_queue_bytes:
                self.counts["refused"] += len(kept)
                raise QueueFull
        self.queued_bytes += size
        self._release(kept)
        self.counts["appended"] += len(kept)
        return self.next_expected_seq - 1

    def append_one(
        self, msg_id: int, body: bytes, flags: int = 0, expires_at: float = 0.0, force: bool = False
    ) -> int:
        return self.append([(msg_id, body, flags, expires_at)], force)

    def take(self, max_bytes: int) -> bytes:
        frames: list[bytes] = []
        total = 0
        seq = self.send_seq
        while seq < self.next_expected_seq:
            last = seq
            message = self.sent.get(seq)
            if message is not None:
                data = frame(message[0], seq, message[1])
            else:
                while last + 1 in self.marks:
                    last += 1
                if not self.can_skip:
                    seq = self.send_seq = last + 1
                    continue
                data = skip_frame(seq, last, self.marks[last])
            if frames and total + len(data) > max_bytes:
                break
            frames.append(data)
            total += len(data)
            if message is None:
                self.counts["skips"] += 1
            else:
                self.counts["taken"] += 1
                if seq <= self.last_sent_seq:
                    self.counts["replayed"] += 1
            if last > self.last_sent_seq:
                self.last_sent_seq = last
            seq = self.send_seq = last + 1
        self.counts["taken_bytes"] += total
        return b"".join(frames)

    def ack_up_to(self, seq: int) -> int:
        if seq <= self.last_acked_seq or self.stopped:
            return 0
        if seq >= self.next_expected_seq:
            raise ProtocolError(f"ack {seq}")
        for acked in range(self.last_acked_seq + 1, seq + 1):
            message = self.sent.pop(acked, None)
            if message is not None:
                self.queued_bytes -= len(message[1])
                self.counts["acked"] += 1
            else:
                del self.marks[acked]
        moved = seq - self.last_acked_seq
        self.last_acked_seq = seq
        if self.send_seq <= seq:
            self.send_seq = seq + 1
        return moved

    def rewind(self, seq: int) -> int:
        if self.stopped:
            return 0
        if seq > self.next_expected_seq:
            raise ValueError(seq)
        self.send_seq = max(seq, self.last_acked_seq + 1)
        return max(0, self.last_sent_seq - self.send_seq + 1)

    def next_expiry(self) -> float:
        """Return the true next expiry; OrderedQueue's may be earlier."""
        times = [expires_at for _, _, _, expires_at in self.sent.values() if expires_at]
        return min(times, default=math.inf)

    def expire(self, now: float) -> int:
        gone = [seq for seq, message in self.sent.items() if 0 < message[3] <= now]
        for seq in gone:
            self._mark(seq, EXPIRED)
        self.counts["expired"] += len(gone)
        return len(gone)

    def drop_oldest(self, messages: int, max_bytes: int) -> int:
        held = len(self.sent) + self.waiting_messages + self.reserved
        over = held + messages - self.max_queue_size
        over_bytes = self.queued_bytes + max_bytes - self.max_queue_bytes
        plain = [seq for seq, message in self.sent.items() if not message[2] & KEEP]
        plain.sort(key=lambda seq: (not self.sent[seq][2] & BULK, seq))
        gone = []
        for seq in plain:
            if over <= 0 and over_bytes <= 0:
                break
            gone.append(seq)
            over -= 1
            over_bytes -= len(self.sent[seq][1])
        if over > 0 or over_bytes > 0:
            return 0
        for seq in gone:
            self._mark(seq, OVERFLOW)
        self.counts["dropped"] += len(gone)
        return len(gone)

    def conflate(self, seq: int) -> bool:
        message = self.sent.get(seq)
        if message is None or seq <= self.last_sent_seq or message[2] & KEEP:
            return False
        self._mark(seq, CONFLATED)
        self.counts["conflated"] += 1
        return True

    def stop(self) -> None:
        self.stopped = True
        self.sent.clear()
        self.marks.clear()
        self.heap.clear()
        self.filled_early.clear()
        self.queued_bytes = self.waiting_messages = 0
        self.send_seq = self.next_expected_seq
        self.first_slot = self.next_slot

    def _read(self, message: Message, flags: int) -> Kept:
        msg_id, body, *rest = message
        if rest:
            flags = int(rest[0])
        expires_at = 0.0
        if len(rest) > 1 and not flags & KEEP:
            expires_at = max(0.0, rest[1])
        return msg_id, body, flags, expires_at

    def _release(self, messages: list[Kept]) -> None:
        for message in messages:
            self.sent[self.next_expected_seq] = message
            self.next_expected_seq += 1

    def _mark(self, seq: int, reason: int) -> None:
        self.queued_bytes -= len(self.sent.pop(seq)[1])
        self.marks[seq] = reason
