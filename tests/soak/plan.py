"""What a soak does: its size, its weather, and what its clients ask for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ACTIONS",
    "LEEWAY_S",
    "PATIENCE_S",
    "ROUTES",
    "TOKEN_SECRET",
    "Action",
    "Plan",
]

PATIENCE_S = 120.0
"""How long each step of a soak may take on a machine that is slow, seconds."""


@dataclass(frozen=True)
class Plan:
    """The size of a soak; everything random in it comes from the seed.

    Attributes:
        backend: The gateway's QUIC library.
        client_backend: The clients'.
        seconds: How long requests, pushes and bad weather last, at least.
        longest_s: How long they last at most, where the least was not reached before.
        min_requests: The least number of requests.
        min_pushes: The least number of notifies handed to applications.
        min_resumes: The least number of sessions taken up again.
        seed: Of every choice.
        clients: How many, of all kinds.
        web: Of these, Python clients over WebSocket.
        js: Of these, JavaScript clients over WebSocket, in Node.
        min_each_requests: The least number of requests of each kind of client.
        min_each_pushes: The least number of notifies handed to clients of each kind.
        min_each_resumes: The least number of sessions taken up again by clients of each kind.
        workers: Requests that each client has under way, at most.
        pause_s: Mean pause of a worker between two requests.
        push_streams: PushStreams, each with clients of its own.
        push_pause_s: Mean pause between two batches of a stream, and between two single pushes.
        loss: Share of datagrams lost, each way.
        duplication: Share of datagrams that arrive twice.
        reordering: Share of datagrams that are overtaken.
        delay_s: Seconds that a datagram takes.
        storm_s: Shortest and longest time between two changes of source ports or blackouts.
        cut_s: Mean time between two cuts, each of one client's connection.
        token_s: Mean life of a client's tokens; 0: the gateway asks for none.
        min_renewals: The least number of tokens renewed while connected.
        processes: The gateway's, under a supervisor; 0: one without.
        min_moves: The least number of sessions that go from one of them to another.
        rebind_s: Time between two changes of all source ports, beside the storms; 0: none.
        upgrade_s: Time between two upgrades of the gateway; 0: none.
        min_upgrades: The least number of upgrades.
        is_calm: Whether the network is a good one.
    """

    backend: str = "aioquic"
    client_backend: str = "aioquic"
    seconds: float = 60.0
    longest_s: float = 600.0
    min_requests: int = 500
    min_pushes: int = 500
    min_resumes: int = 5
    seed: int = 1
    clients: int = 50
    web: int = 0
    js: int = 0
    min_each_requests: int = 100
    min_each_pushes: int = 100
    min_each_resumes: int = 1
    workers: int = 8
    pause_s: float = 0.1
    push_streams: int = 4
    push_pause_s: float = 0.04
    loss: float = 0.10
    duplication: float = 0.05
    reordering: float = 0.05
    delay_s: float = 0.003
    storm_s: tuple[float, float] = (2.0, 4.0)
    cut_s: float = 0.1
    token_s: float = 0.0
    min_renewals: int = 0
    processes: int = 0
    min_moves: int = 0
    rebind_s: float = 0.0
    upgrade_s: float = 0.0
    min_upgrades: int = 0
    is_calm: bool = False

    @property
    def quic(self) -> int:
        """How many clients are Python clients over QUIC; they are the first ones."""
        return self.clients - self.web - self.js

    @property
    def kinds(self) -> dict[str, int]:
        """The kinds of clients, each with how many there are."""
        numbers = {"quic": self.quic, "websocket": self.web, "js": self.js}
        return {kind: number for kind, number in numbers.items() if number}


TOKEN_SECRET = "a secret of thirty-two bytes, at least"
LEEWAY_S = 60
"""How long a client has to bring its next token once one has expired: more than several handshakes
last that the network cut off (clients.CONNECT_TIMEOUT_S), on a busy machine."""


@dataclass(frozen=True)
class Action:
    """What clients ask for.

    Attributes:
        weight: How often, against the other actions.
        service: Who answers.
        lane: Executions of one lane and session come in the order of asking; None where no order is
            promised, because several endpoints share the calls.
        order: Answers of one order and session come in the order of asking; empty for none.
        max_wait_s: The longest time that the upstream takes.
        route: Settings of its route, as TOML.
    """

    weight: int
    service: str
    lane: str | None = None
    order: str = ""
    max_wait_s: float = 0.0
    route: str = ""


ACTIONS = {
    "fast": Action(40, "zone", lane="zone"),
    "slow": Action(10, "zone", lane="zone", max_wait_s=0.3),
    "ordered": Action(
        12, "zone", lane="zone", order="ordered", max_wait_s=0.05, route='order = "request"'
    ),
    "serial": Action(8, "zone", lane="serial", max_wait_s=0.03, route="serial = true"),
    "shared": Action(10, "business"),
    "carried": Action(8, "business"),
    "bound": Action(4, "business"),
    "refused_once": Action(5, "business"),
    "refused": Action(3, "business"),
}
"""By name. ``carried`` has notifies in its answer and ``bound`` pushes them beforehand; endpoints
of ``refused_once`` and ``refused`` answer REFUSED once, and always."""

ROUTES = "".join(
    f'[[route]]\naction = "{name}"\nservice = "{action.service}"\n{action.route}\n'
    for name, action in {**ACTIONS, "hello": Action(0, "hello")}.items()
)
"""The gateway's configuration file."""
