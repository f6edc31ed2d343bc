"""The client's parts that need no gateway: the notify buffer, the close-code table, the pauses."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from gatesvr.client.messages import Lost, Notify
from gatesvr.client.notifies import NotifyBuffer
from gatesvr.client.reconnect import Action, Backoff, Verdict, verdict_of
from gatesvr.errors import LostReason, NotifyOverflow, SessionLost
from gatesvr.protocol.link import Disconnect


def notify(seq: int) -> Notify:
    return Notify("", "", "", b"", {}, seq)


async def read_all(buffer: NotifyBuffer) -> list[object]:
    """Read what is there; overflows as (count, first, last)."""
    found: list[object] = []
    while len(buffer):
        try:
            found.append((await buffer.get()).server_seq)
        except NotifyOverflow as error:
            found.append((error.count, error.first_seq, error.last_seq))
    return found


async def test_every_gap_stands_in_its_place() -> None:
    buffer = NotifyBuffer(2)
    for seq in range(1, 6):
        buffer.put(notify(seq))
    assert (await buffer.get()).server_seq == 1
    buffer.put(notify(6))  # still full: the gap takes the place
    assert (await buffer.get()).server_seq == 2
    buffer.put(notify(7))
    buffer.put(notify(8))
    assert await read_all(buffer) == [(4, 3, 6), 7, (1, 8, 8)]
    assert buffer.dropped == 5


async def test_bound_holds_whatever_comes() -> None:
    rng = random.Random(7)
    told: list[Lost] = []
    buffer = NotifyBuffer(8, told.append)
    seq = 0
    delivered: list[object] = []
    for _ in range(3_000):
        choice = rng.random()
        if choice < 0.6:
            seq += 1
            buffer.put(notify(seq))
        elif choice < 0.8:
            buffer.put_lost(
                Lost(seq + 1, seq + 3, rng.choice((LostReason.EXPIRED, LostReason.OVERFLOW)))
            )
            seq += 3
        elif len(buffer):
            delivered += await read_all(buffer) if choice < 0.81 else []
        assert len(buffer) <= 9
    delivered += await read_all_but_last(buffer)
    seen = {each for each in delivered if isinstance(each, int)}
    for each in delivered:
        if isinstance(each, tuple):
            seen |= set(range(each[1], each[2] + 1))
    for lost in told:
        seen |= set(range(lost.first_seq, lost.last_seq + 1))
    assert seen == set(range(1, seq + 1))  # each seq delivered or announced


async def read_all_but_last(buffer: NotifyBuffer) -> list[object]:
    buffer.close()
    found: list[object] = []
    while True:
        try:
            found += await read_all(buffer)
            await buffer.get()
        except StopAsyncIteration:
            return found


async def test_losses_merge_and_are_told_in_order() -> None:
    told: list[tuple[int, int, int]] = []
    buffer = NotifyBuffer(9, lambda lost: told.append((lost.first_seq, lost.last_seq, lost.reason)))
    buffer.put_lost(Lost(1, 2, 1))
    buffer.put_lost(Lost(3, 3, 1))
    buffer.put_lost(Lost(4, 4, 2))
    buffer.put(notify(5))
    assert (await buffer.get()).server_seq == 5
    assert told == [(1, 3, 1), (4, 4, 2)]


async def test_close_and_errors_come_behind_what_is_there() -> None:
    buffer = NotifyBuffer(2)
    buffer.put(notify(1))
    buffer.put_error(SessionLost("over"))
    buffer.close()
    assert (await buffer.get()).server_seq == 1
    with pytest.raises(SessionLost):
        await buffer.get()
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await buffer.get()


async def test_cancelled_reader_loses_nothing() -> None:
    buffer = NotifyBuffer(2)
    readers = [asyncio.create_task(buffer.get()) for _ in range(2)]
    await asyncio.sleep(0)
    buffer.put(notify(1))
    readers[0].cancel()  # it was woken for what it will not read
    assert (await readers[1]).server_seq == 1
    with pytest.raises(asyncio.CancelledError):
        await readers[0]


async def test_two_readers_share() -> None:
    buffer = NotifyBuffer(4)
    readers = [asyncio.create_task(buffer.get()) for _ in range(2)]
    await asyncio.sleep(0)
    buffer.put(notify(1))
    buffer.put(notify(2))
    assert sorted([(await each).server_seq for each in readers]) == [1, 2]


def test_bound_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="max_notifies"):
        NotifyBuffer(0)


@pytest.mark.parametrize(
    ("code", "action"),
    [
        (0, Action.STOP),
        (4400, Action.STOP),
        (4401, Action.STOP),
        (4403, Action.FRESH),
        (4408, Action.RESUME),
        (4409, Action.RESUME),
        (4410, Action.STOP),
        (4411, Action.FRESH),
        (4413, Action.RESUME),
        (4426, Action.STOP),
        (4429, Action.RESUME),
        (4500, Action.RESUME),
        (4503, Action.RESUME),
        (4499, Action.STOP),  # unknown 44xx
        (4599, Action.RESUME),  # unknown 45xx
        (4600, Action.STOP),  # the operator's
        (7, Action.STOP),
    ],
)
def test_close_code_table(code: int, action: Action) -> None:
    assert verdict_of(Disconnect("peer", code)).action is action


def test_who_was_superseded_while_it_was_live_does_not_come_back() -> None:
    how = Disconnect("peer", 4409)
    assert verdict_of(how, is_started=True).action is Action.STOP
    assert verdict_of(Disconnect("peer", 4500), is_started=True).action is Action.RESUME


@pytest.mark.parametrize("kind", ["idle", "reset", "peer_transport", "handshake", "local"])
def test_lost_connection_is_resumed(kind: str) -> None:
    assert verdict_of(Disconnect(kind, 4400)) == Verdict(Action.RESUME)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reason", "delay"),
    [
        ("busy retry_after_ms=1500", 1.5),
        ("reconnect_after_ms=250", 0.25),
        ("retry_after_ms=999999999", 60.0),
        ("reconnect_after_ms=999999999", 300.0),
        ("retry_after_ms=-1", 0.0),
        ("", 0.0),
    ],
)
def test_hint_in_the_reason(reason: str, delay: float) -> None:
    assert verdict_of(Disconnect("peer", 4503, reason)).delay == delay


def test_pauses_are_full_jitter_under_a_doubling_bound() -> None:
    backoff = Backoff()
    assert [backoff.next(1.0) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.next(0.5) == 15
    for _ in range(2_000):
        assert backoff.next(1.0) == 30
    backoff.reset()
    assert backoff.next(0.5) == 0.25


def test_jitter_is_added_to_what_the_gateway_asks_for() -> None:
    backoff = Backoff()
    assert backoff.next(0.0, 10.0) == 10.0
    assert backoff.next(1.0, 10.0) == 20.0
    assert backoff.next(1.0, 300.0) == 330.0
    assert backoff.next(1.0) == 4.0  # it counted as tries all the same


async def test_position_is_what_the_reader_is_done_with() -> None:
    """Against a plain list: what is unread, or read last, is the lowest that is not done with."""
    rng = random.Random(11)
    reads: list[None] = []
    for max_notifies in (1, 3, 50):
        buffer = NotifyBuffer(max_notifies, on_read=lambda: reads.append(None))
        buffer.close()  # a reader that finds nothing does not wait
        todo: list[int] = []  # the first seq of everything that was not read
        in_hand = 0
        seq = 0
        for _ in range(2_000):
            choice = rng.random()
            if choice < 0.5:
                seq += 1
                buffer.put(notify(seq))
                todo.append(seq)
            elif choice < 0.6:
                buffer.put_lost(Lost(seq + 1, seq + 2, rng.choice(list(LostReason))))
                seq += 2
                todo.append(seq - 1)
            elif choice < 0.62:
                buffer.end_session()
                todo.clear()
                in_hand = seq = 0
                while len(buffer):  # what is left of it is read, and counts for nothing
                    with contextlib.suppress(NotifyOverflow, StopAsyncIteration):
                        await buffer.get()
                    assert buffer.first_unread == 0
            elif len(buffer):
                try:
                    in_hand = (await buffer.get()).server_seq
                    last = in_hand
                except NotifyOverflow as error:
                    in_hand, last = error.first_seq, error.last_seq
                except StopAsyncIteration:
                    in_hand, last = 0, seq
                todo = [each for each in todo if each > last]
            else:
                buffer.settle()
                in_hand = 0
            assert buffer.first_unread == (in_hand or (todo[0] if todo else 0))
    assert reads
