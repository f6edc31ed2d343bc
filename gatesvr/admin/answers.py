"""The answers of the admin API: one struct an answer, which is its schema too."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..drain import DrainStatus
from ..figures import Moment

__all__ = [
    "ApiError",
    "ConnectionView",
    "Done",
    "ErrorAnswer",
    "FleetView",
    "History",
    "LatencyView",
    "LogLevel",
    "LoginView",
    "MessageRates",
    "OpenSlot",
    "Overview",
    "PathChange",
    "Pending",
    "Rates",
    "Refusal",
    "RouteView",
    "SequenceView",
    "SessionEventView",
    "SessionPage",
    "SessionRow",
    "SessionView",
    "Setting",
    "Settings",
    "SlowSession",
    "Stack",
    "Stacks",
    "Traced",
    "UpgradePhase",
    "UpgradeStatus",
    "UpstreamView",
    "WorkerView",
]


UpgradePhase = Literal["none", "starting", "leaving", "done", "given_up"]


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the answers."""


class ApiError(_Answer, frozen=True, kw_only=True):
    """Why a request was refused."""

    code: str
    """A short key, in capitals."""
    message: str
    """Text for people."""


class ErrorAnswer(_Answer, frozen=True, kw_only=True):
    """The answer to every request that fails."""

    error: ApiError
    """Why."""


class Rates(_Answer, frozen=True, kw_only=True):
    """What happened a second, over the last interval."""

    requests: float
    """Requests accepted."""
    answers: float
    """Answers given, an ERROR too."""
    pushes: float
    """Notifies taken for clients."""
    connections: float
    """New connections."""
    bytes_in: float
    """Bytes of the datagrams read."""
    bytes_out: float
    """Bytes of the datagrams written."""
    cpu: float
    """Processors in use, 1.0 for a whole one."""


class LatencyView(_Answer, frozen=True, kw_only=True):
    """Times of one stage over the last ten seconds, in seconds."""

    count: int
    """Times measured."""
    p50: float
    """Half of them were shorter."""
    p90: float
    """Nine in ten were shorter."""
    p99: float
    """99 in 100 were shorter."""
    p999: float
    """999 in 1,000 were shorter."""
    max: float
    """The longest."""


class Refusal(_Answer, frozen=True, kw_only=True):
    """Something that the gateway refused, dropped or closed."""

    reason: str
    """The counter, ``layer.name``."""
    total: int
    """Since the gateway started."""
    rate: float
    """A second, over the last interval."""


class UpstreamView(_Answer, frozen=True, kw_only=True):
    """One endpoint of a service; of one with a name, one of the name's addresses."""

    service: str
    """The service, ``*`` for all."""
    zone: str
    """The zone it serves, empty for all."""
    address: str
    """HOST:PORT or unix:PATH."""
    name: str
    """The name that the address was resolved from; empty where the address is configured."""
    state: str
    """``connecting``, ``unary``, ``stream``, ``down`` or ``stopped``."""
    health: Literal["up", "ejected", "down"]
    """Whether it gets calls."""
    registered: bool
    """Whether it registered itself; else it is configured."""
    weight: int
    """Its share of the calls."""
    lanes: int
    """Lanes to its address."""
    in_flight: int
    """Calls written and not ended, of all endpoints at this address."""
    waiting: int
    """Calls not yet written, of all endpoints at this address."""
    max_open: int
    """Most calls that may be open now."""
    breaker: str
    """``closed``, ``open`` or ``half_open``."""
    ejections: int
    """Ejections in a row."""
    requests: int
    """Calls that it has answered or failed."""
    failures: int
    """Those that it has failed."""
    p50: float
    """Half of the service's calls were shorter, seconds, over the last ten."""
    p99: float
    """99 in 100 were shorter."""
    batch_mean: float
    """Requests a message, of all lanes, since the start."""


class SlowSession(_Answer, frozen=True, kw_only=True):
    """A session with much in its queue."""

    session: str
    """Its id."""
    openid: str
    """Its user."""
    state: str
    """``inited``, ``normal`` or ``suspended``."""
    queue_messages: int
    """Messages not acknowledged."""
    queue_bytes: int
    """Bytes of their bodies."""
    oldest_unacked_s: float
    """How long the oldest has not been acknowledged."""


class WorkerView(_Answer, frozen=True, kw_only=True):
    """One process of a gateway of several."""

    number: int | None
    """Its number, which no other process has now; null where its place has none."""
    slot: int
    """Its place: that of the sockets that it reads."""
    pid: int
    """The process; 0 for none."""
    state: Literal["starting", "ready", "unready", "draining", "leaving", "silent", "down"]
    """``unready``: it takes no new clients; ``leaving``: another one has its place; ``silent``: it
    has not answered, and its figures are those from before; ``down``: there is none, and a new one
    begins soon."""
    not_ready: list[str]
    """Why it takes no new clients."""
    version: str
    """GateSvr's; empty before it has answered."""
    uptime_s: float
    """Since it was started."""
    answered_s: float | None
    """Since it has told its figures; null for never."""
    restarts: int
    """Processes of its place that have ended by themselves, in a row: one that has lived for a
    minute begins a new row."""
    connections: int
    """Connections whose handshake is complete."""
    sessions: int
    """Sessions that it owns."""
    in_flight: int
    """Requests accepted and not answered."""
    requests: float
    """Requests accepted, a second."""
    cpu: float
    """Processors in use, 1.0 for a whole one."""
    memory_bytes: int
    """Resident memory."""
    lag_s: float
    """How late its loop came to its last tick."""
    moves_in: int
    """Sessions that came from other processes, since it was started."""
    moves_out: int
    """Sessions that went to other processes."""
    handed_on: int
    """Datagrams handed on to the process whose connection they are for."""


class FleetView(_Answer, frozen=True, kw_only=True):
    """The processes of a gateway of several; none for a gateway of one."""

    slots: int = 0
    """Places, each with a process of its own in the normal case."""
    restarts: int = 0
    """Processes that have ended by themselves and were started anew."""
    workers: list[WorkerView] = []
    """Those there are, and places without one, by place and number."""


class Overview(Moment, frozen=True, kw_only=True):
    """The whole gateway at one moment.

    Of a gateway of several processes it is their sum, of ``lag_s`` and ``oldest_unacked_s`` the
    most; ``pid`` is the supervisor's.
    """

    rates: Rates
    """What happens a second."""
    latency: dict[str, LatencyView]
    """By stage: ``request``, ``queue_wait``, ``send``, ``upstream:SERVICE`` and others."""
    refusals: list[Refusal]
    """Those that happened at all, the biggest rate first."""
    upstreams: list[UpstreamView]
    """Every endpoint."""
    slowest: list[SlowSession]
    """The ten sessions with the most messages in their queues."""
    drain: DrainStatus | None
    """How far a drain is; null where there is none."""
    fleet: FleetView | None = None
    """The processes of a gateway of several; null for a gateway of one."""


class History(_Answer, frozen=True, kw_only=True):
    """The last minutes, a point a second."""

    time: list[float]
    """Seconds since the epoch."""
    series: dict[str, list[float | None]]
    """By name, as long as ``time``; null where nothing was measured."""


class SessionRow(_Answer, frozen=True, kw_only=True):
    """A session in a list."""

    session: str
    """Its id."""
    openid: str
    """Its user."""
    client_id: str
    """The client's own name for itself."""
    state: str
    """``inited``, ``normal`` or ``suspended``."""
    ip: str
    """The client's address at its last START."""
    transport: str
    """The way that it last came by: ``quic``, ``websocket`` or ``webtransport``."""
    zone: str
    """Its user's zone."""
    created: float
    """Seconds since the epoch."""
    age_s: float
    """Since it was made."""
    idle_s: float
    """Since the last request, heartbeat or acknowledgement."""
    rtt_s: float
    """Round trip of its connection; 0 where it has none."""
    queue_messages: int
    """Messages not acknowledged."""
    queue_bytes: int
    """Bytes of their bodies."""
    in_flight: int
    """Requests not answered."""
    rate: float
    """Messages a second, both ways."""
    worker: int | None = None
    """The number of the process that owns it; null in a gateway of one."""


class SessionPage(_Answer, frozen=True, kw_only=True):
    """A page of the sessions that match."""

    total: int
    """How many match, on all pages."""
    sessions: list[SessionRow]
    """Those of this page."""
    next: str | None
    """The token of the next page; null on the last one."""
    silent: list[int] = []
    """Numbers of the processes that have not told theirs; always empty in a gateway of one."""


class PathChange(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """A client's move to another address."""

    time: float
    """Seconds since the epoch."""
    from_: str
    """HOST:PORT before."""
    to: str
    """HOST:PORT from then on."""


class ConnectionView(_Answer, frozen=True, kw_only=True):
    """A session's connection."""

    number: int
    """The process's own number for it, as in the log."""
    address: str
    """The client's HOST:PORT."""
    backend: str
    """The QUIC library; for web clients ``websocket`` or ``webtransport``."""
    rtt_s: float
    """Smoothed round trip; 0 before the first sample."""
    cwnd: int
    """Congestion window, bytes."""
    lost: int
    """Packets declared lost."""
    in_flight_bytes: int
    """Bytes sent and not acknowledged."""
    unsent_bytes: int
    """Bytes written and never transmitted."""
    path_changes: list[PathChange]
    """The last moves, the oldest first."""


class OpenSlot(_Answer, frozen=True, kw_only=True):
    """A place in the order that an answer has not filled yet."""

    slot: int
    """Its number."""
    client_seq: int
    """The request that it is for."""
    action: str
    """The request's action; empty where its task does not tell."""
    age_s: float
    """Since the request was accepted; 0 where its task does not tell."""


class Pending(_Answer, frozen=True, kw_only=True):
    """A request that is not answered."""

    client_seq: int
    """Its number."""
    slot: int
    """The place of its answer; 0 where that goes out at once."""
    action: str
    """Its action; empty where its task does not tell."""
    service: str
    """The service that answers."""
    age_s: float
    """Since it was accepted; 0 where its task does not tell."""


class SequenceView(_Answer, frozen=True, kw_only=True):
    """The positions of a session's outgoing order."""

    acked: int
    """The highest server seq that the client has acknowledged."""
    sent: int
    """The highest server seq handed to a connection."""
    next: int
    """The server seq that the next message gets."""
    unsent: int
    """Server seqs given and not yet handed to the connection."""
    waiting: list[int]
    """Slots filled before their turn, 256 at most."""
    waiting_count: int
    """How many there are."""
    open_slots: list[OpenSlot]
    """Slots that wait for an answer, 256 at most."""
    open_count: int
    """How many slots are open, the waiting ones included."""
    unacked_bytes: int
    """Bytes of the bodies not acknowledged."""
    client_seq: int
    """The highest client seq accepted."""


class MessageRates(_Answer, frozen=True, kw_only=True):
    """What a session does, a second."""

    requests: float
    """Requests accepted."""
    pushes: float
    """Messages to the client, answers included."""


class SessionEventView(_Answer, frozen=True, kw_only=True):
    """Something that happened to a session."""

    time: float
    """Seconds since the epoch."""
    event: str
    """What: a kind of session event; while it is traced also ``request``, ``answer``, ``push``,
    ``bound``, ``ack``, ``sent``, ``attached``, ``detached``, in a stream ``missed``."""
    detail: str
    """``KEY=VALUE`` pairs."""


class SessionView(SessionRow, frozen=True, kw_only=True):
    """Everything about a session."""

    number: int
    """Its place in the order in which sessions were made."""
    user_port: int
    """The port beside ``ip``."""
    protocol: int
    """0 for base clients, else 1."""
    capabilities: int
    """Bits of PROTOCOL 3.1 that both ends have."""
    max_message_bytes: int
    """The largest frame that the client takes."""
    auth_subject: str
    """Who the client has proved to be; empty where nobody asked."""
    logged_in: bool
    """Whether its hello was answered 200."""
    hello_pending: bool
    """Whether a hello is not answered."""
    generation: int
    """Rises with every connection."""
    resumes: int
    """How often it came back."""
    tombstone_s: float | None
    """Seconds left to come back in while it has no connection; else null."""
    connection: ConnectionView | None
    """Null while it has none."""
    sequence: SequenceView
    """Its outgoing order."""
    pending: list[Pending]
    """Requests not answered, 256 at most."""
    max_queue_size: int
    """Most messages in its queue."""
    max_queue_bytes: int
    """Most bytes in its queue."""
    stopped: bool
    """Whether its queue takes nothing more."""
    before_notifies: int
    """Notifies bound before an answer."""
    after_notifies: int
    """Notifies bound behind an answer."""
    held_notifies: int
    """Notifies that wait for its login."""
    oldest_unacked_s: float
    """How long its oldest message has not been acknowledged."""
    queue: dict[str, int]
    """Sums of its queue since it was made."""
    rates: MessageRates
    """What it does now."""
    traced: bool
    """Whether its messages are traced."""
    events: list[SessionEventView]
    """What happened to it last, the oldest first, 100 at most."""


class Done(_Answer, frozen=True, kw_only=True):
    """What a kick or a push reached."""

    sessions: int
    """Sessions."""


class Traced(_Answer, frozen=True, kw_only=True):
    """Whether a session is traced now."""

    traced: bool
    """Whether it is."""


class RouteView(_Answer, frozen=True, kw_only=True):
    """A rule that names a service."""

    action: str
    """An action, or the start of one and ``*``."""
    service: str
    """Its service."""
    order: str
    """``completion`` or ``request``."""
    serial: bool
    """Whether one of a session's requests runs at a time."""


class Setting(_Answer, frozen=True, kw_only=True):
    """One setting in force."""

    name: str
    """Dotted."""
    value: str
    """As TOML has it; ``(hidden)`` where it is secret."""
    origin: str
    """What set it; ``default`` for nothing."""
    restart: bool
    """Whether only a restart changes it."""


class Settings(_Answer, frozen=True, kw_only=True):
    """The configuration in force."""

    settings: list[Setting]
    """In the order of the reference."""


class UpgradeStatus(_Answer, frozen=True, kw_only=True):
    """How far the last upgrade has come."""

    phase: UpgradePhase = "none"
    """none before the first one; starting: new workers start; leaving: they serve, and the old ones
    drain; given_up: nothing has changed."""
    why: str = ""
    """Why it was given up."""
    needs_restart: list[str] = []
    """Settings that the sources have otherwise, and that only a restart puts in force."""
    workers: int = 0
    """New workers."""
    workers_ready: int = 0
    """Of these, those that are ready."""
    workers_left: int = 0
    """Old workers that have not ended."""
    connections_left: int = 0
    """Clients that these still have."""
    sessions_left: int = 0
    """Sessions that they still have, and results that they are yet to hand on."""
    requests_left: int = 0
    """Requests that they still run."""
    elapsed_s: float = 0.0
    """Seconds since it began."""
    remaining_s: float = 0.0
    """Seconds after which it is given up, or what the old workers still have is cut off."""


class LogLevel(_Answer, frozen=True, kw_only=True):
    """The lowest level that is logged."""

    level: str
    """``debug``, ``info``, ``warning`` or ``error``."""
    session: str
    """The session that it is for; empty for all."""


class Stack(_Answer, frozen=True, kw_only=True):
    """Tasks or threads that are at the same place."""

    name: str
    """The name of one of them."""
    count: int
    """How many there are."""
    frames: list[str]
    """``FUNCTION FILE:LINE``, the outermost first."""


class Stacks(_Answer, frozen=True, kw_only=True):
    """Where the process is."""

    tasks: list[Stack]
    """The event loop's tasks, the most numerous first."""
    threads: list[Stack]
    """The threads."""


class LoginView(_Answer, frozen=True, kw_only=True):
    """A login of the console."""

    expires: float
    """Until when the cookie holds, seconds since the epoch."""
