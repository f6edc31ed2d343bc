# The session's outgoing order: slots, waiting min-heap, sent ring, batch ACK (DESIGN D5, D6).

from collections.abc import Iterable
from typing import Any, TypeAlias, final

KEEP: int  # flag of answers and bundles: never expires, is never dropped
BULK: int  # flag of broadcasts and multicasts: dropped first

# msg_id, body, flags, expires_at; expires_at in the caller's seconds, 0 for never.
_Message: TypeAlias = tuple[int, bytes] | tuple[int, bytes, int] | tuple[int, bytes, int, float]

@final
class OrderedQueue:
    session_id: str
    max_queue_size: int
    max_queue_bytes: int
    reserved: int  # room kept for answers to come; only append with force uses it
    can_skip: bool  # whether the peer understands SKIP; if not, marks are left out

    def __init__(
        self, session_id: str = "", max_queue_size: int = 1024, max_queue_bytes: int = 4194304
    ) -> None: ...
    @property
    def next_expected_seq(self) -> int: ...  # the seq that the next released message gets
    @property
    def last_sent_seq(self) -> int: ...  # highest seq that take() has given out
    @property
    def last_acked_seq(self) -> int: ...
    @property
    def stopped(self) -> bool: ...
    @property
    def waiting_slots(self) -> int: ...  # slots filled before their turn
    @property
    def open_slots(self) -> int: ...  # slots reserved and not yet released
    @property
    def unsent(self) -> int: ...  # seqs released and not yet taken (marks included)
    @property
    def queued_bytes(self) -> int: ...  # bodies in the ring and in waiting slots
    @property
    def kept(self) -> int: ...  # messages with KEEP in the ring, and those in waiting slots
    @property
    def bulk(self) -> int: ...  # plain messages with BULK in the ring
    @property
    def bulk_bytes(self) -> int: ...  # of their bodies
    def __len__(self) -> int: ...  # messages in the ring (not acked; marks not counted)
    def __sizeof__(self) -> int: ...  # with its C memory, without the bodies
    def reserve(self) -> int: ...  # the slot, from 1
    def fill(self, slot: int, messages: Iterable[_Message]) -> int: ...  # messages released
    def append(self, messages: Iterable[_Message], force: bool = False) -> int: ...  # last seq
    def append_one(
        self, msg_id: int, body: bytes, flags: int = 0, expires_at: float = 0.0, force: bool = False
    ) -> int: ...  # its seq
    def take(self, max_bytes: int) -> bytes: ...
    def ack_up_to(self, seq: int) -> int: ...  # seqs newly acked
    def rewind(self, seq: int) -> int: ...  # seqs that take() will give out again
    def oldest_age(self, now: float) -> float: ...  # seconds that the oldest one is not acked
    def lost_range(self) -> tuple[int, int]: ...  # of the marks to give out; 0, 0 for none
    def expire(self, now: float) -> int: ...  # messages that expired
    def next_expiry(self) -> float: ...  # a lower bound, inf if nothing expires
    def drop_oldest(self, messages: int, max_bytes: int) -> int: ...  # messages dropped
    def conflate(self, seq: int) -> bool: ...  # whether it became a mark
    def stop(self) -> None: ...
    def export(self, now: float) -> dict[str, Any]: ...  # the fields of a MovedQueue
    def restore(self, state: Any, now: float) -> None: ...  # has them as attributes
    def counters(self) -> dict[str, int]: ...
    def slots(self) -> tuple[int, int, list[int]]: ...  # lowest open, next, those filled early
    def _check(self) -> None: ...
