"""One history: devices, networks, gateways and upstreams under a schedule drawn from a seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from gatesvr.bench.checker import DeliveryChecker
from gatesvr.config import (
    Config,
    DispatchConfig,
    PushConfig,
    RouteRule,
    SessionConfig,
)
from gatesvr.errors import CloseCode
from gatesvr.protocol.link import Disconnect

from .device import Device, Stranger
from .gateway import SECOND_DEVICE, Gateway
from .loop import VirtualLoop
from .network import Connection
from .upstream import Pushers, Upstream

if TYPE_CHECKING:
    from gatesvr.session.session import Session

EVENTS = 320
"""Events of a history before the network is left alone."""
CALM_EVENTS = 4_000
"""Events within which everything must have arrived from then on."""

ROUTES = [
    RouteRule(action="hello", service="hello"),
    RouteRule(action="ordered", service="zone", order="request"),
    RouteRule(action="single", service="zone", serial=True),
    RouteRule(action="echo", service="zone"),
]
ACTIONS = ("echo", "echo", "ordered", "single", "nowhere")


class World:
    """A history.

    Args:
        seed: All there is to it: the same seed gives the same history.
        is_verbose: Keep a trace.
        events: How many before the calm, 0 for the usual number.

    Attributes:
        pace: Seconds that pass between two events, at most.
        has_three: Whether the third device is of the same user as the others.
    """

    EVENTS = EVENTS
    pace = 0.004
    has_three = False

    def __init__(self, seed: int, *, is_verbose: bool = False, events: int = 0) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.is_verbose = is_verbose
        self.trace: list[str] = []
        self.counts: Counter[str] = Counter()
        self.checker = DeliveryChecker()
        self.loop = VirtualLoop()
        self.is_calm = False
        self.events = 0
        self.max_events = events or self.EVENTS
        self.names = 0
        self.strangers = 0
        self.wants_login: set[str] = set()
        self.connections: list[Connection] = []
        self.next_sweep = self.now + 1.0
        self._draw_config()
        self._begin()
        self.devices = [
            Device(self, "A", "alice", "192.0.2.1"),
            Device(self, "B", "alice", SECOND_DEVICE),
            Device(self, "C", "alice" if self.has_three else "carol", "192.0.2.3"),
        ]

    def _begin(self) -> None:
        """Begin what the devices connect to."""
        self.upstream = Upstream(self)
        self.gateway = Gateway(self)
        self.pushers = Pushers(self, self.gateway)

    def _draw_config(self) -> None:
        draw = self.random.choice
        self.has_lag = draw((False, True))
        # A transport that hands on what it read before it was told to close: fenced all the same.
        self.is_sloppy = draw((False, True))
        # Clients that send all again that has no answer, not only what was never accepted.
        self.is_insistent = draw((False, False, True))
        self.login_refusals = draw((0.06, 0.06, 0.06, 0.6))
        self.login_weight = draw((0.04, 0.4, 1.0))
        self.max_message_bytes = draw((1 << 20, 1 << 20, 1 << 20, 330))
        self.window = draw((150, 1_000, 100_000))
        self.high_water = draw((100, 600, 65_536))
        self.low_water = self.high_water // 2
        queue_size = draw((8, 14, 40, 1_024))
        queue_bytes = draw((2_500, 1 << 20))
        self.config = Config(
            session=SessionConfig(
                max_queue_size=queue_size,
                max_queues_bytes=draw((0, 0, 0, 1_500)),
                max_in_flight=draw((3, 6, 128)),
                max_message_bytes=draw((1 << 20, 1 << 20, 700)),
                max_logged_in=draw((1, 5)),
                on_duplicate=draw(("replace", "replace", "replace", "reject", "allow")),
                when_full=draw(("drop_oldest", "drop_oldest", "drop_oldest", "refuse", "close")),
                resume_window=draw((8.0, 20.0, 60.0)),
                slow_consumer_timeout=draw((1.0, 4.0)),
            ),
            dispatch=DispatchConfig(
                workers=draw((1, 4)),
                max_workers=draw((4, 16)),
                max_queue_size=draw((4, 100)),
                task_timeout=draw((4.0, 30.0)),
            ),
            push=PushConfig(),
            route=list(ROUTES),
        )
        # Smaller than a gateway takes, so that a history of few messages comes to the cap.
        msgspec.structs.force_setattr(self.config.session, "max_queue_bytes", queue_bytes)

    @property
    def now(self) -> float:
        return self.loop.time()

    def note(self, text: str, *args: object) -> None:
        """Write a line of the trace."""
        if self.is_verbose:
            self.trace.append(f"{self.events:4} {self.now - 1_000:9.3f}  " + text % args)

    def new_name(self, kind: str) -> str:
        self.names += 1
        return f"{kind}{self.names}"

    def told_lost(self, session_id: str, reason: str) -> None:
        """A client was told why its session is gone."""

    def told_failed(self, name: str, code: int) -> None:
        """A client was told that a request has failed."""

    def held(self, session: Session) -> int:
        """Return the notifies that wait for a session's login."""
        return len(session.outbox.held or ())

    def connect(self, device: Device) -> Connection:
        number = sum(d.connections for d in self.devices) + self.strangers
        connection = Connection(self, device, self.gateway, number)
        connection.is_calm = self.is_calm
        self.connections.append(connection)
        return connection

    # The run.

    def run(self) -> World:
        """Run the whole history and check it."""
        try:
            while self.events < self.max_events:
                self.step()
            self.note("-- calm --")
            self.is_calm = True
            for device in self.devices:
                device.is_slow = False
            while not self.is_settled():
                if self.events > self.max_events + CALM_EVENTS:
                    self.checker.broken("", "it never settles")
                    break
                self.step()
            self.check()
            self.check_end()
        finally:
            self.loop.run(self.gateway.processor.stop())
            self.loop.close()
        return self

    def step(self) -> None:
        """Do one of the things that can happen now."""
        self.events += 1
        actions: list[tuple[float, Callable[..., None], Any]] = []
        for device in self.devices:
            self._offer_device(device, actions)
        for connection in self.connections:
            self._offer_connection(connection, actions)
        self._offer_rest(actions)
        weights = [weight for weight, _, _ in actions]
        _, function, argument = self.random.choices(actions, weights)[0]
        if argument is None:
            function()
        else:
            function(argument)
        self.pass_time(self.random.random() * self.pace)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and do what is due."""
        self.loop.advance(seconds)
        now = self.now
        self.upstream.expire()
        while self.next_sweep <= now:
            self.next_sweep += 1.0
            self.gateway.engine.sweep()
        for connection in self.connections:
            if connection.gateway_open:
                timer = connection.handler.get_timer()
                if timer is not None and timer <= now:
                    connection.handler.handle_timer(now)
        for device in self.devices:
            device.handle_timer()
        self.loop.settle()
        if self.connections and self.connections[0].is_over:
            self.connections = [c for c in self.connections if not c.is_over]
        for connection in self.connections:
            if connection.gateway_open:
                self._check_open(connection)

    def _check_open(self, connection: Connection) -> None:
        """Check what holds of an open connection whenever nothing runs."""
        handler = connection.handler
        session = handler.session
        if session is None:
            return
        if session.link is not connection:
            self.checker.broken(session.session_id, f"{connection} is open, its session elsewhere")
            connection.gateway_open = False
            return
        queue = session.queue
        if queue.unsent and not connection.unsent and not connection.is_dirty:
            self.checker.broken(session.session_id, f"{connection} is not fed")
            connection.is_dirty = True
        if handler._held and not connection.is_awake and not session.hello_seq:
            in_flight = len(session.pending)
            limits = self.config.session
            if in_flight < limits.max_in_flight and in_flight + queue.kept < limits.max_queue_size:
                self.checker.broken(session.session_id, f"{connection} holds requests for nothing")
                connection.is_awake = True

    # What can happen.

    def _offer_device(self, device: Device, actions: list[Any]) -> None:
        calm = self.is_calm
        protocol, session = device.protocol, device.session
        if device.inbox:
            actions.append((1.5, self._hand_over, device))
        if device.is_over:
            if not calm:
                actions.append((0.08, device.begin_anew, None))
            return
        connection = device.connection
        if connection is None:
            if device.retry_at <= self.now and (
                device.connections or (not calm and (device.name != "B" or self.events > 60))
            ):
                weight = 1.0 if device.connections or device.name == "A" else 0.1
                actions.append((weight, device.connect, None))
        else:
            is_given_up = connection.is_cut or not connection.gateway_open
            if is_given_up or (device.is_leaving and protocol.is_left):
                actions.append((0.3, self._leave, device))
            elif not calm:
                actions.append((0.06, self._leave, device))
            if protocol.is_live and not session.is_logged_in and not device.has_login_open:
                actions.append((0.4, device.ask, "hello"))
            if not calm:
                actions.append((0.06, self._toggle_slow, device))
                if protocol.is_live:
                    actions.append((0.008, device.stop, None))
        if calm:
            return
        if device.connections and len(session.pending) < 12:
            weight = 0.5 if session.is_logged_in else 0.08
            actions.append((weight, self._ask, device))
        if session.session_id:
            actions.append((0.02, device.restart, None))
            actions.append((0.004, device.begin_anew, None))

    def _offer_connection(self, connection: Connection, actions: list[Any]) -> None:
        calm = self.is_calm
        if connection.to_report is not None:
            actions.append((0.7, connection.report, None))
            if connection.is_awake:
                actions.append((2.0, connection.work, None))
            if connection.up and not connection.is_cut:
                actions.append((2.0, self._deliver_up, connection))
        if connection.is_cut:
            if connection.gateway_open:
                actions.append((0.15, self._time_out, connection))
            return
        if connection.gateway_open:
            if connection.is_awake:
                actions.append((4.0, connection.work, None))
            if connection.up:
                actions.append((2.0, self._deliver_up, connection))
            if connection.is_dirty:
                actions.append((4.0, connection.flush, None))
            if connection.unsent and len(connection.down) < self.window:
                actions.append((3.0, self._transmit, connection))
            if not connection.client_open:
                actions.append((0.1 if connection.up else 0.3, self._see_close, connection))
            if not calm:
                actions.append((0.03, self._cut, connection))
                actions.append((0.01, self._close_timeout, connection))
                actions.append((0.005, self._move, connection))
        if connection.client_open:
            if connection.down and not connection.device.is_slow:
                actions.append((3.0, self._deliver_down, connection))
            if connection.gateway_close is not None and connection.is_reported:
                actions.append((0.05 if connection.down else 2.0, self._deliver_close, connection))
        elif connection.down:
            connection.down.clear()

    def _offer_rest(self, actions: list[Any]) -> None:
        for call in self.upstream.calls[:8]:
            weight = self.login_weight if call.action == "hello" else 0.4
            actions.append((weight, self.upstream.answer, call))
        actions.append((0.15, self._wait, None))
        if self.is_calm:
            return
        actions.append((0.9, self.pushers.push, None))
        actions.append((0.3, self.pushers.bind, None))
        actions.append((0.05, self.pushers.broadcast, None))
        actions.append((0.008, self.pushers.kick, None))
        actions.append((0.006, self._restart_gateway, None))
        actions.append((0.02, self._wait_long, None))
        actions.append((0.04, self._burst, None))
        actions.append((0.02, self._stall, None))
        actions.append((0.012, self._sleep, None))
        actions.append((0.04, self._send_stranger, None))

    def _hand_over(self, device: Device) -> None:
        device.hand_over(self.random.randint(1, len(device.inbox)))

    def _ask(self, device: Device) -> None:
        for _ in range(self.random.choice((1, 1, 2, 4))):
            device.ask("hello" if self.random.random() < 0.04 else self.random.choice(ACTIONS))

    def _leave(self, device: Device) -> None:
        self.counts["given_up"] += 1
        device.note_unread()
        device.leave(self.random.choice((None, None, 0, 4408)))

    def _toggle_slow(self, device: Device) -> None:
        device.is_slow = not device.is_slow
        self.counts["slow"] += device.is_slow

    def _some(self, data: bytearray) -> int:
        return len(data) if self.random.random() < 0.6 else self.random.randint(1, len(data))

    def _deliver_up(self, connection: Connection) -> None:
        if not connection.client_open:
            self.counts["late"] += 1
        connection.deliver_up(self._some(connection.up))

    def _deliver_down(self, connection: Connection) -> None:
        device = connection.device
        size = self._some(connection.down)
        if not self.is_calm and device.connection is connection and self.random.random() < 0.01:
            device.crash_reading(connection, size)
        else:
            device.read(connection, size)

    def _transmit(self, connection: Connection) -> None:
        connection.transmit(self._some(connection.unsent))

    def _deliver_close(self, connection: Connection) -> None:
        assert connection.gateway_close is not None
        connection.device.closed(connection, *connection.gateway_close)

    def _see_close(self, connection: Connection) -> None:
        """The device's close, or its silence, reaches the gateway; what was under way may not."""
        code = connection.client_close
        if code is None:
            if self.random.random() < 0.2:
                connection.end_stream()
            else:
                connection.lose(Disconnect("idle"))
        else:
            connection.lose(Disconnect("peer", code))

    def _cut(self, connection: Connection) -> None:
        self.note("cut %s", connection)
        self.counts["cuts"] += 1
        if connection is connection.device.connection:
            connection.device.note_unread()
        connection.is_cut = True
        connection.up.clear()
        connection.down.clear()

    def _time_out(self, connection: Connection) -> None:
        connection.lose(Disconnect("idle"))

    def _close_timeout(self, connection: Connection) -> None:
        connection.handler.close(CloseCode.TIMEOUT, "silent")

    def _move(self, connection: Connection) -> None:
        """The device has moved to another address once too often."""
        connection.handler.path_limit_near(self.now)

    def _wait(self) -> None:
        self.pass_time(self.random.random() * 0.5)

    def _wait_long(self) -> None:
        self.note("time passes")
        self.pass_time(self.random.choice((1.5, 5.0, 12.0, 25.0, 65.0)))

    def _burst(self) -> None:
        """More pushes than a small queue takes."""
        for _ in range(self.random.randint(5, 20)):
            self.pushers.push()

    def _stall(self) -> None:
        """A device reads nothing any more, and more is pushed to it than its queue takes."""
        device = self.random.choice(self.devices)
        session = self.gateway.sessions.by_id(device.session.session_id)
        if session is None or not device.is_live or not session.is_logged_in:
            return
        self.note("%s reads nothing", device)
        device.is_slow = True
        for _ in range(min(self.config.session.max_queue_size, 40)):
            self.pushers.push_to(session)
        for _ in range(6):
            self.pass_time(1.0)

    def _sleep(self) -> None:
        """A device is out of reach for longer than its session lives on."""
        device = self.random.choice(self.devices)
        if device.connection is not None:
            self._cut(device.connection)
            self._time_out(device.connection)
        self.note("%s sleeps", device)
        self.pass_time(0.0)
        self.pass_time(self.config.session.resume_window + 1.5)

    def _send_stranger(self) -> None:
        """Somebody who knows a session's id, or even a token, but is not its client."""
        device = self.random.choice(self.devices)
        if device.session.session_id:
            stranger = Stranger(self, device)
            self.strangers += 1
            stranger.connect()

    def _restart_gateway(self) -> None:
        self.note("the gateway restarts")
        self.counts["gateway_restarts"] += 1
        if self.random.random() < 0.5:
            self.gateway.sessions.stop_starting(self.loop.time())
            self.gateway.dispatcher.go_away("stopping", 100)
            for connection in self.connections:
                if connection.gateway_open:
                    connection.handler.close(CloseCode.OVERLOADED, "reconnect_after_ms=100")
            self.loop.settle()
        else:
            for connection in self.connections:
                connection.crash()
        for session in list(self.gateway.sessions.all_sessions()):
            self.checker.ended(session.session_id)
        self.upstream.forget()
        old = self.gateway
        self.loop.run(old.processor.stop())
        self.gather(old)
        self.gateway = Gateway(self)
        self.pushers = Pushers(self, self.gateway)

    # The end.

    def gather(self, gateway: Gateway) -> None:
        """Add a gateway's counters up, and see whether its events were right."""
        gateway.check_events()
        for counters in (gateway.sessions.counters, gateway.processor.counters):
            for name, value in counters.snapshot().items():
                self.counts[f"gw_{name}"] += int(value)

    def is_settled(self) -> bool:
        """Say whether everything has arrived that will."""
        if self.upstream.calls:
            return False
        for device in self.devices:
            if device.is_over or not device.connections:
                continue
            connection = device.connection
            if connection is None or not device.is_live or device.inbox or device.session.pending:
                return False
            session = self.gateway.sessions.by_id(device.session.session_id)
            if session is None or session.link is not connection or session.outbox.has_unacked:
                return False
            if not session.is_logged_in or connection.up or connection.down or connection.unsent:
                return False
        return True

    def check(self) -> None:
        """Tell the checker that this is all, for the sessions that live."""
        self.gather(self.gateway)
        for text in self.loop.failures:
            self.checker.broken("", f"loop: {text}")
        if self.counts["gw_internal_errors"]:
            self.checker.broken("", "internal errors")
        for device in self.devices:
            session = self.gateway.sessions.by_id(device.session.session_id)
            if (
                session is None
                or device.connection is None
                or session.link is not device.connection
            ):
                continue
            queue = session.queue.counters()
            self.checker.settled(
                session.session_id,
                last_seq=session.queue.next_expected_seq - 1,
                dropped=queue["expired"] + queue["dropped"] + queue["conflated"],
            )
            self.checker.client_settled(device.name)
            self.check_queue(session)
        for finding in self.checker.findings:
            self.note("!! %s", finding)

    def check_queue(self, session: Session) -> None:
        """Check the queue of a session to which all has arrived."""
        queue = session.queue
        queue._check()
        if queue.open_slots or queue.reserved or session.outbox.notifies is not None:
            self.checker.broken(session.session_id, "something waits for an answer")

    def check_end(self) -> None:
        """Let everything expire: nothing may be left of it."""
        self.let_expire(3)
        for name, count in self.gateway.leftovers().items():
            if count:
                self.checker.broken("", f"{count} {name} are left at the end")

    def let_expire(self, times: int) -> None:
        """End all connections, and wait so often for as long as a session lives on."""
        for connection in self.connections:
            connection.lose(Disconnect("idle"))
            connection.report()
        self.loop.settle()
        for device in self.devices:
            device.connection = None
        for _ in range(times):
            self.pass_time(self.config.session.resume_window + self.config.session.login_timeout)


def run(seed: int, *, is_verbose: bool = False, events: int = EVENTS) -> World:
    """Run the history of a seed."""
    return World(seed, is_verbose=is_verbose, events=events).run()
