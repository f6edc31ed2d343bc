"""A device: the real ClientProtocol, and an application that tells the checker what it sees."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gatesvr._core.codec import ServerPush
from gatesvr._pb import message_pb2 as pb
from gatesvr.client.reconnect import Action, verdict_of
from gatesvr.errors import CloseCode
from gatesvr.protocol.client import LEAVE_TIMEOUT_S, ClientProtocol
from gatesvr.protocol.client_session import ClientSession
from gatesvr.protocol.events import (
    Answered,
    ClientEvent,
    Failed,
    GoAwayReceived,
    Ignored,
    Lost,
    Notify,
    SessionReset,
    Started,
    StartRefused,
)
from gatesvr.protocol.link import Disconnect
from gatesvr.protocol.messages import PushType
from gatesvr.protocol.saved import SavedState

if TYPE_CHECKING:
    from .network import Connection
    from .processes.process import Process
    from .world import World


UNCALLED_FOR = frozenset(
    {
        CloseCode.PROTOCOL_ERROR,
        CloseCode.RESUME_DENIED,
        CloseCode.SUPERSEDED,
        CloseCode.SLOW_CONSUMER,
        CloseCode.INTERNAL_ERROR,
    }
)
"""Closes that a client does not get for what it did, while the network is well."""


@dataclass(slots=True)
class Asked:
    """A request of the application's."""

    name: str
    action: str


class TappedSession(ClientSession):
    """A ClientSession that remembers the answers nobody waits for any more."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.ignored: dict[int, tuple[int, int]] = {}

    def _event(self, push: ServerPush, now: float) -> ClientEvent:
        event = super()._event(push, now)
        if isinstance(event, Ignored):
            code = 0
            if push.type == PushType.ERROR:
                code = pb.ErrorMessage.FromString(push.payload).error_code
            self.ignored[push.seq_id] = (push.client_seq_id, code)
        return event


class InsistentProtocol(ClientProtocol):
    """A ClientProtocol that also sends again what the gateway has accepted."""

    def _send_again(self, max_client_seq: int, events: list[ClientEvent]) -> None:
        for seq, request in sorted(self.session.pending.items()):
            if seq <= max_client_seq and request.is_sent:
                self._send(seq, request)
        super()._send_again(max_client_seq, events)


class Device:
    """One client process after another, on one disk.

    Attributes:
        session: The process's.
        protocol: The newest connection's.
        connection: The newest, None where there is none.
        connections: How many there were.
        last_process: The process that the newest one reached, where there are several.
        disk: The state that was stored when the protocol last asked for it.
        is_over: The gateway said not to come back: only a new life helps.
        is_slow: It reads nothing for now.
        is_leaving: It was asked to come back on another connection.
    """

    def __init__(self, world: World, name: str, openid: str, ip: str) -> None:
        self.world = world
        self.name = name
        self.openid = openid
        self.ip = ip
        self.session = self._new_session()
        self.protocol = self._new_protocol()
        self.disk = b""
        self.connection: Connection | None = None
        self.connections = 0
        self.last_process: Process | None = None
        self.is_over = False
        self.is_slow = False
        self.is_leaving = False
        self.asked: dict[int, Asked] = {}
        self.inbox: deque[tuple[str, ClientEvent]] = deque()
        self.retry_at = 0.0

    def __repr__(self) -> str:
        return self.name

    def _new_session(self, state: bytes = b"") -> TappedSession:
        limit = self.world.max_message_bytes
        if not state:
            return TappedSession(self.openid, max_message_bytes=limit)
        session = TappedSession.from_state(state, max_message_bytes=limit)
        assert isinstance(session, TappedSession)
        return session

    def _new_protocol(self) -> ClientProtocol:
        kind = InsistentProtocol if self.world.is_insistent else ClientProtocol
        return kind(self.session)

    @property
    def is_live(self) -> bool:
        """Whether START was answered well on the newest connection."""
        return self.connection is not None and self.protocol.is_live

    @property
    def has_login_open(self) -> bool:
        return any(asked.action == "hello" for asked in self.asked.values())

    # Connections.

    def connect(self) -> None:
        self.connections += 1
        self.is_leaving = False
        connection = self.world.connect(self)
        self.connection = connection
        self.protocol = self._new_protocol()
        self.protocol.connect(self.world.now)
        self.world.note(
            "%s opens %s: session %s, attempt %d, position %d",
            self,
            connection,
            self.session.session_id[:4],
            self.session.attempt,
            self.session.position,
        )
        self.flush()

    def leave(self, code: int | None) -> None:
        """Give the connection up: in silence, or with a close."""
        connection, self.connection = self.connection, None
        if connection is not None:
            self.world.note("%s leaves %s: %s", self, connection, code)
            connection.client_open = False
            connection.client_close = code

    def note_unread(self) -> None:
        """Count it where the gateway has handled START and nobody will read START_RESP."""
        connection = self.connection
        if connection is not None and not self.protocol.is_live:
            self.world.counts["start_resps_never_read"] += connection.handler.session is not None

    def read(self, connection: Connection, size: int) -> None:
        """Take bytes of the gateway's in."""
        data = bytes(connection.down[:size])
        del connection.down[:size]
        if connection is not self.connection:
            return
        self.handle(self.protocol.receive_data(data, self.world.now))
        if self.protocol.error is not None:
            self.world.checker.broken(
                self.session.session_id, f"client {self}: {self.protocol.error}"
            )
            self.leave(CloseCode.PROTOCOL_ERROR)
        else:
            self.flush()

    def closed(self, connection: Connection, code: int, reason: str) -> None:
        """The gateway's close has arrived."""
        connection.client_open = False
        connection.down.clear()
        if connection is not self.connection:
            return
        self.world.note("%s reads the close of %s: %d %s", self, connection, code, reason)
        if connection.is_calm and code in UNCALLED_FOR:
            self.world.checker.broken(self.session.session_id, f"closed for nothing: {code}")
        self.connection = None
        is_started = self.protocol.is_live
        self.handle(self.protocol.closed(code))
        verdict = verdict_of(Disconnect("peer", code, reason), is_started=is_started)
        self.retry_at = self.world.now + verdict.delay
        # Who is told that his openid is busy would otherwise come back for ever.
        is_busy = self.world.is_calm and code == CloseCode.OPENID_BUSY
        if verdict.action is Action.STOP or is_busy:
            self.is_over = True
            self.world.counts["ends"] += 1

    def handle_timer(self) -> None:
        timer = self.protocol.get_timer()
        if self.connection is None or timer is None or timer > self.world.now:
            return
        self.protocol.handle_timer(self.world.now)
        if self.protocol.is_silent:
            self.world.counts["silent"] += 1
            if self.connection.is_calm:
                self.world.checker.broken(self.session.session_id, "the gateway says nothing")
            self.leave(CloseCode.TIMEOUT)
        else:
            self.flush()

    def flush(self) -> None:
        """Write what the protocol has to say; the disk has its state by then."""
        if self.session.is_state_due:
            self.disk = self.session.state()
        data = self.protocol.data_to_send()
        if data and self.connection is not None and not self.connection.is_cut:
            self.connection.up += data

    # Lives.

    def restart(self, state: bytes | None = None) -> None:
        """The process dies and comes back with what is on its disk."""
        self.world.note("%s restarts", self)
        self.world.counts["client_restarts"] += 1
        state = self.stored_state() if state is None else state
        self.leave(None)
        self.forget()
        self.session = self._new_session(state)
        self.protocol = self._new_protocol()

    def stored_state(self) -> bytes:
        """Return what is on the disk; the application itself stores its position as it goes."""
        if not self.disk:
            return b""
        saved = SavedState.decode(self.disk)
        if saved.session_id == self.session.session_id:
            saved = replace(saved, position=self.session.position)
        return saved.encode()

    def crash_reading(self, connection: Connection, size: int) -> None:
        """Read, and die before anything is on the disk."""
        state = self.stored_state()
        data = bytes(connection.down[:size])
        del connection.down[:size]
        self.protocol.receive_data(data, self.world.now)
        self.restart(state)

    def begin_anew(self) -> None:
        """Another process, without the disk: a new session."""
        self.world.note("%s begins anew", self)
        self.leave(None)
        self.forget()
        self.session = self._new_session()
        self.protocol = self._new_protocol()
        self.disk = b""
        self.is_over = False

    def forget(self) -> None:
        self.world.checker.forgot(self.name)
        self.asked.clear()
        self.inbox.clear()

    def stop(self) -> None:
        """End the session."""
        self.world.note("%s stops", self)
        self.world.counts["stops"] += 1
        self.protocol.stop()
        self.flush()

    # Requests.

    def ask(self, action: str) -> None:
        name = self.world.new_name(action[0])
        data = name.encode() + b"." * self.world.random.choice((0, 0, 8, 60, 200))
        self.world.checker.asked(self.name, name, is_login=action == "hello")
        seq = self.protocol.send_request(action, data, now=self.world.now)
        self.world.note("%s asks %s: seq %d", self, name, seq)
        self.asked[seq] = Asked(name, action)
        self.flush()

    # Events.

    def handle(self, events: list[ClientEvent]) -> None:
        for event in events:
            if isinstance(event, SessionReset):
                self.hand_over(len(self.inbox), is_acked=False)
                self.world.note("%s has lost %s: %s", self, event.session_id[:4], event.reason)
                self.world.counts["session_losses"] += 1
                self.world.checker.session_lost(self.name, event.session_id, event.reason.name)
                self.world.told_lost(event.session_id, event.reason.name)
            elif isinstance(event, Started):
                self.world.note(
                    "%s starts in %s: resumed %s", self, event.session_id[:4], event.is_resumed
                )
                self.world.checker.started(self.name, event.session_id, is_resumed=event.is_resumed)
                if event.is_resumed:
                    self.world.counts["resumes_read"] += 1
                if not event.is_logged_in and not self.has_login_open:
                    self.world.wants_login.add(self.name)
            elif isinstance(event, StartRefused):
                self.world.note("%s is refused: %d %s", self, event.code, event.message)
                self.world.counts[f"refused_{event.code}"] += 1
            elif isinstance(event, GoAwayReceived):
                self.world.counts["goaways"] += 1
                self.is_leaving = True
                within = LEAVE_TIMEOUT_S if event.reconnect_after_ms else 0.0
                self.protocol.leave(self.world.now, within)
            elif isinstance(event, Failed) and not event.seq:
                self.finish_failed(event)
            elif isinstance(event, (Answered, Failed, Notify, Lost, Ignored)):
                self.inbox.append((self.session.session_id, event))
        if not self.world.has_lag:
            self.hand_over(len(self.inbox))
        if self.name in self.world.wants_login and self.is_live:
            self.world.wants_login.discard(self.name)
            self.ask("hello")
            if not self.world.is_calm:
                for _ in range(self.world.random.choice((0, 0, 1, 3))):
                    self.ask("echo")

    def hand_over(self, count: int, *, is_acked: bool = True) -> None:
        """Let the application have what was received."""
        for _ in range(count):
            session_id, event = self.inbox.popleft()
            self._hand_over(session_id, event)
            if is_acked:
                self.protocol.acknowledge(event.seq, self.world.now)  # type: ignore[union-attr]
        if is_acked and count:
            self.flush()

    def _hand_over(self, session_id: str, event: ClientEvent) -> None:
        checker = self.world.checker
        if isinstance(event, Notify):
            checker.delivered(session_id, event.seq, push=_name(event.data))
            self.world.note("%s reads %d: %s", self, event.seq, _name(event.data))
        elif isinstance(event, Answered):
            seq = event.client_seq
            asked = self.asked.pop(seq, None) or Asked(f"nothing with seq {seq}", "")
            self.world.note("%s reads %d: answer to %s", self, event.seq, asked.name)
            order = asked.action if asked.action == "ordered" else ""
            checker.delivered(session_id, event.seq, client_seq=event.client_seq, order=order)
            checker.answered(self.name, asked.name, _name(event.data), event.code)
            self.world.counts["answers"] += 1
        elif isinstance(event, Failed):
            self.world.note("%s reads %d: %d %s", self, event.seq, event.code, event.message)
            checker.delivered(session_id, event.seq, client_seq=event.client_seq, code=event.code)
            self.finish_failed(event)
        elif isinstance(event, Lost):
            reason = event.reason.name
            self.world.note("%s lost %d to %d: %s", self, event.from_seq, event.to_seq, reason)
            self.world.counts[f"lost_{reason.lower()}"] += 1
            checker.lost(session_id, event.from_seq, event.to_seq, reason)
        elif isinstance(event, Ignored):
            client_seq, code = self.session.ignored.pop(event.seq)
            self.world.note("%s ignores %d: answer to %d", self, event.seq, client_seq)
            checker.delivered(session_id, event.seq, client_seq=client_seq, code=code)

    def finish_failed(self, event: Failed) -> None:
        asked = self.asked.pop(event.client_seq, None)
        if asked is not None:
            self.world.counts[f"failed_{event.code}"] += 1
            self.world.checker.failed(self.name, asked.name, event.code, event.outcome)
            self.world.told_failed(asked.name, event.code)


class Stranger(Device):
    """Somebody who presents the id of a session that is not his; he must get nothing."""

    def __init__(self, world: World, victim: Device) -> None:
        openid = world.random.choice((victim.openid, "mallory", ""))
        super().__init__(world, "X", openid, world.random.choice((victim.ip, "198.51.100.7")))
        self.session.session_id = victim.session.session_id
        self.session.resume_token = world.random.randbytes(16)
        if openid == "mallory" and world.random.random() < 0.5:
            self.session.resume_token = victim.session.resume_token
        self.session_id = victim.session.session_id

    def handle(self, events: list[ClientEvent]) -> None:
        for event in events:
            if isinstance(event, StartRefused):
                self.world.counts["strangers_refused"] += 1
            elif isinstance(event, Started) and event.session_id == self.session_id:
                self.world.checker.broken(self.session_id, "a stranger has it")


def _name(data: bytes) -> str:
    return data.partition(b".")[0].decode()
