"""Scenarios ``echo`` and ``mix``: clients that send requests.

Each client checks its own answers, because reporting all of them to the DeliveryChecker would cost
a third more. It checks that every answer belongs to one of its open requests, returns that
request's data, comes in server order without a gap, and has its notifies around it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

from ..protocol.events import Answered, ClientEvent, Failed, Ignored, Lost, Notify
from ..protocol.messages import OK
from .client import HEAD, LoadClient
from .findings import AnsweredTwice, Gap, Torn, Unanswered, Unasked, WrongAnswer
from .schedule import Alarm, Schedule

if TYPE_CHECKING:
    from .client import Fleet

__all__ = ["Asking", "AskingClient"]

MAX_OPEN = 128
"""Most requests under way for a client of the open model: the gateway accepts no more."""
MIX_LENGTH = 1_024
SLOW_MS = 5
FULL_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request.

    Attributes:
        action: The action.
        latencies: The list for its latencies.
        params: Its params.
        expected: The answer's expected data; None for the request's own data.
        is_json: Whether the check is only that the answer is JSON.
        is_bundle: Whether a notify comes right before and one right after its answer.
    """

    action: str
    latencies: list[int]
    params: Mapping[str, str] | None = None
    expected: bytes | None = None
    is_json: bool = False
    is_bundle: bool = False


def kinds(fleet: Fleet) -> list[Kind]:
    """Return the kinds of request of the plan's scenario, in sending order."""
    plan, series = fleet.plan, fleet.recorder.series
    delay = plan.upstream_delay_ms
    if plan.scenario == "echo":
        if delay:
            return [Kind("slow", series("echo"), {"ms": str(delay)})]
        return [Kind("echo", series("echo"))]
    weighted = [
        (60, Kind("echo", series("echo"))),
        (15, Kind("calculate", series("calculate"), {"op": "add", "a": "40", "b": "2"}, b"42")),
        (10, Kind("time", series("time"), is_json=True)),
        (10, Kind("notify_demo", series("notify_demo"), is_bundle=True)),
        (5, Kind("slow", series("slow"), {"ms": str(delay or SLOW_MS)})),
    ]
    # S311: a mix needs spread, not secrecy.
    rng = random.Random(plan.seed)  # noqa: S311
    return rng.choices([k for _, k in weighted], [w for w, _ in weighted], k=MIX_LENGTH)


class AskingClient(LoadClient):
    """A client that sends requests and checks the answers."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        super().__init__(fleet, number)
        self._asking: Asking | None = None
        self._kinds: list[Kind] = []
        self._at = 0  # in _kinds
        self._asked = 0
        self._prefix = HEAD.pack(fleet.plan.run, number, 0)[:-8]
        self._padding = bytes(fleet.plan.payload - HEAD.size)
        # Number of a request to (when it was meant to be sent, its data, its kind).
        self._sent: dict[int, tuple[float, bytes, Kind]] = {}
        self._position = 0
        self._before: Notify | None = None  # a notify whose answer must come next
        self._after = 0  # the seq that belongs to the notify after its answer

    def prepare(self, asking: Asking, order: list[Kind]) -> None:
        """Set the requests to send; each client starts at another place of the order."""
        self._asking = asking
        self._kinds = order
        self._at = self.number % len(order)

    @property
    def in_flight(self) -> int:
        """Requests not answered yet."""
        return len(self._sent)

    def ask(self, meant_at: float, now: float) -> None:
        """Queue the next request; flush() sends it."""
        kind = self._kinds[self._at]
        self._at = (self._at + 1) % len(self._kinds)
        self._asked += 1
        data = self._prefix + self._asked.to_bytes(8, "big") + self._padding
        seq = self.protocol.send_request(kind.action, data, kind.params, now=now)
        self._sent[seq] = (meant_at, data, kind)

    def answered(self, event: Answered, now: float) -> None:
        """Check an answer, and send the next request."""
        seq = event.seq
        if seq != self._position + 1 or self._after or self._before is not None:
            self._check_place(event.seq, event)
        self._position = seq
        self.protocol.acknowledge(seq, now)
        sent = self._sent.pop(event.client_seq, None)
        if sent is None:
            if event.client_seq == self._login_seq:
                self._handle_login(event)
            else:
                self._find(AnsweredTwice(self.session_id, event.client_seq, seq))
            return
        meant_at, data, kind = sent
        if event.code != OK:
            self.fleet.fail(f"{kind.action} answered {event.code} {event.message}")
        else:
            kind.latencies.append(int((now - meant_at) * 1e6))
            if event.data != data:
                self._check_other(event, kind)
            if kind.is_bundle:
                self._after = seq + 1
        asking = self._asking
        if asking is not None and self.fleet.is_running:
            asking.go_on(self, now)

    def notified(self, event: Notify, now: float) -> None:
        """Check a notify; only those around an answer are expected."""
        is_after = event.seq == self._after
        self._check_place(event.seq, event)
        self._position = event.seq
        self.protocol.acknowledge(event.seq, now)
        if is_after:
            if event.data != b"after 1":
                self._find(Torn(self.session_id, 0, event.seq, "not the notify of its answer"))
        else:
            self._before = event

    def handle(self, event: ClientEvent, now: float) -> None:
        """Handle the rare events."""
        if isinstance(event, Ignored):
            self._find(AnsweredTwice(self.session_id, 0, event.seq))
            self._position = event.seq
            self.protocol.acknowledge(event.seq, now)
        elif isinstance(event, Lost):
            self._position = event.to_seq
            self.protocol.acknowledge(event.seq, now)
            self.lost(event)
        else:
            super().handle(event, now)

    def failed(self, event: Failed, now: float) -> None:
        """Count the failed request, and send the next one."""
        if event.seq:
            self._check_place(event.seq, event)
            self._position = event.seq
            self.protocol.acknowledge(event.seq, now)
        if event.client_seq == self._login_seq:
            self._stayed_down(f"login failed: {event.code} {event.message}")
            return
        self._sent.pop(event.client_seq, None)
        self.fleet.fail(f"error {event.code} {event.message}")
        if self._asking is not None and self.fleet.is_running and self.is_up:
            self._asking.go_on(self, now)

    def lost_connection(self, why: str) -> None:
        """Forget the open requests, which can no longer be answered."""
        self._sent.clear()
        super().lost_connection(why)

    def is_settled(self) -> bool:
        """Return whether every request is answered, with its notifies."""
        return not self._sent and not self._after

    def settle(self) -> None:
        """Check that every request is answered."""
        for _, _, kind in self._sent.values():
            self._find(Unanswered(self.session_id, kind.action))
        self._check_place(self._position + 1, None)

    def _find(
        self, finding: Gap | Torn | Unasked | Unanswered | AnsweredTwice | WrongAnswer
    ) -> None:
        self.fleet.checker.findings.append(finding)

    def _check_place(self, seq: int, event: Answered | Notify | Failed | None) -> None:
        """Check a message's seq, and that bundles are complete (PROTOCOL 7.7)."""
        session_id = self.session_id
        if seq != self._position + 1:
            self._find(Gap(session_id, self._position, seq))
        if self._after:
            if type(event) is not Notify:
                self._find(Torn(session_id, 0, seq, "without the notify after its answer"))
            self._after = 0
        before, self._before = self._before, None
        if before is None:
            return
        kind = None
        if type(event) is Answered:
            sent = self._sent.get(event.client_seq)
            kind = sent[2] if sent is not None else None
        if kind is None or not kind.is_bundle:
            self._find(Unasked(session_id, before.seq, before.data.decode("utf-8", "replace")[:32]))
        elif before.data != b"before 1":
            self._find(Torn(session_id, 0, seq, "not the notify of its answer"))

    def _check_other(self, event: Answered, kind: Kind) -> None:
        """Check an answer whose data is not the request's own."""
        if kind.is_json:
            try:
                is_right = isinstance(json.loads(event.data), dict)
            except ValueError:
                is_right = False
        else:
            is_right = kind.expected is not None and event.data == kind.expected
        if not is_right:
            answer = event.data[:16].hex()
            self._find(WrongAnswer(self.session_id, f"{kind.action} {event.client_seq}", answer))


class Asking:
    """The load of echo and mix: closed, or at a fixed rate over all clients.

    Args:
        fleet: AskingClients.
        process: Number of the load process.
    """

    def __init__(self, fleet: Fleet, process: int) -> None:
        self._fleet = fleet
        self._plan = fleet.plan
        self._process = process
        self._clients = [client for client in fleet.clients if isinstance(client, AskingClient)]
        self._ring = cycle(self._clients)
        self._schedule: Schedule | None = None
        self._alarm: Alarm | None = None
        self._is_full = False  # every client has MAX_OPEN requests under way
        order = kinds(fleet)
        for client in self._clients:
            client.prepare(self, order)

    async def begin(self, now: float) -> None:
        """Start the load."""
        plan = self._plan
        if plan.rate:
            share = len(self._clients) / plan.clients
            rate = plan.rate * share
            # Interleave the processes' arrivals.
            self._schedule = Schedule(rate, now + self._process / plan.rate)
            self._alarm = Alarm(self._send_due)
            self._alarm.set(self._schedule.next_at)
            return
        for client in self._clients:
            if client.is_up:
                for _ in range(plan.in_flight):
                    client.ask(now, now)
                client.flush()

    def go_on(self, client: AskingClient, now: float) -> None:
        """Let a client whose request ended send the next one, if it is its turn.

        In the open model the clients take turns, however soon one is answered; only where all of
        them were at their limit does the next one that is answered go on.
        """
        schedule = self._schedule
        if schedule is None:
            client.ask(now, now)
        elif self._is_full:
            meant_at = schedule.take(now)
            if meant_at is not None:
                client.ask(meant_at, now)

    def measure(self) -> None:
        """Drop the warm-up's figures."""
        if self._schedule is not None:
            self._schedule.max_lag = 0.0

    async def end(self) -> None:
        """Stop sending."""
        if self._alarm is not None:
            self._alarm.close()

    def is_settled(self) -> bool:
        """Return whether every request is answered."""
        return all(client.is_settled() for client in self._clients if client.is_up)

    async def close(self) -> None:
        """Do nothing: no resources are open."""

    def figures(self, now: float) -> dict[str, float]:
        """Return how well the schedule was kept."""
        if self._schedule is None:
            return {}
        return {
            "max_lag_ms": round(self._schedule.max_lag * 1e3, 3),
            "unsent": self._schedule.waiting(now),
        }

    def _send_due(self, now: float) -> None:
        """Send the due requests, from one client after another."""
        schedule, alarm = self._schedule, self._alarm
        if schedule is None or alarm is None or not self._fleet.is_running:
            return
        self._is_full = False
        while schedule.next_at <= now:
            client = self._free_client()
            if client is None:
                self._is_full = True
                # Every client is at its limit: the next answers continue the load.
                alarm.set(now + FULL_PAUSE_S)
                return
            meant_at = schedule.take(now)
            assert meant_at is not None
            client.ask(meant_at, now)
            client.flush()
        alarm.set(schedule.next_at)

    def _free_client(self) -> AskingClient | None:
        for _ in range(len(self._clients)):
            client = next(self._ring)
            if client.is_up and client.in_flight < MAX_OPEN:
                return client
        return None
