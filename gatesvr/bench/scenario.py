"""The scenarios of ``gatesvr bench``, and the Plan of one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..transport.addresses import Place
from .tokens import TokenSigner

if TYPE_CHECKING:
    from ..credentials import Access

__all__ = ["SCENARIOS", "Plan", "Scenario"]

NOWHERE = Place("", 0)
MIN_PAYLOAD_BYTES = 32
"""Room for the mark that makes each message unique: run, client, number and time."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load.

    Attributes:
        name: The NAME in ``gatesvr bench NAME``.
        summary: What it does, one line.
        operation: The operation that is counted and timed, in the singular.
        clients: Default number of clients.
        in_flight: Default number of operations under way: for each client; for ``connect``, in all.
        rate: Default operations a second, 0 for the closed model.
        models: ``closed`` (fixed number in flight), ``open`` (fixed rate), both or neither.
        needs_push: Whether it calls the gateway's push API.
        is_timed: Whether its operations have latencies.
    """

    name: str
    summary: str
    operation: str
    clients: int
    in_flight: int = 1
    rate: float = 0.0
    models: frozenset[str] = frozenset({"closed", "open"})
    needs_push: bool = False
    is_timed: bool = True

    @property
    def operations(self) -> str:
        """The operation in the plural."""
        word = self.operation
        return f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "connect",
            "connect ramp: handshake, START and login of one client after the other",
            "login",
            clients=200,
            in_flight=16,
        ),
        Scenario("echo", "one small request and its answer, over and over", "request", clients=64),
        Scenario(
            "mix",
            "echo, calculate, time, notifies around an answer, slow requests, at random",
            "request",
            clients=64,
        ),
        Scenario(
            "push",
            "notifies to one client each, through the push API",
            "delivery",
            clients=64,
            needs_push=True,
        ),
        Scenario(
            "broadcast",
            "notifies to all clients at once, --rate a second",
            "delivery",
            clients=200,
            rate=10.0,
            models=frozenset({"open"}),
            needs_push=True,
        ),
        Scenario(
            "resume",
            "resume storm: all connections cut at once, all sessions resumed, in rounds",
            "resume",
            clients=200,
            models=frozenset(),
        ),
        Scenario(
            "slow",
            "pushes to all while some of the clients read nothing: how the others fare",
            "delivery",
            clients=64,
            rate=1_000.0,
            models=frozenset({"open"}),
            needs_push=True,
        ),
        Scenario(
            "idle",
            "clients that are logged in and silent: the cost of a session",
            "session",
            clients=200,
            models=frozenset(),
            is_timed=False,
        ),
    )
}
"""Every scenario by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parameters of a run; each load process gets the same plan and its own number.

    Attributes:
        scenario: A name in SCENARIOS.
        clients: Clients of all load processes together.
        in_flight: See Scenario.
        rate: Operations a second of all load processes together, 0 for the closed model.
        duration: Length of the measurement, seconds.
        warmup: Seconds of load before the measurement.
        payload: Bytes of a request's or a push's data.
        backend: The clients' QUIC library: auto, aioquic or qh3.
        server: Where the gateway is, and the way to it; filled in later if the bench starts the
            gateway.
        push_server: The gateway's gRPC address, HOST:PORT, empty for none.
        push_ca: PEM file of certificates to trust the push port by, empty for plain text.
        push_cert: PEM file of the certificate to show there.
        push_key: PEM file of its key.
        push_token_file: File of the token to send there.
        ca: PEM file of certificates to trust, empty for the default.
        insecure: Accept any certificate.
        token: Sent as auth_token, where there is no signer.
        signer: Makes each client's auth_token.
        upstream_delay_ms: How long the upstream should take for a request.
        slow_clients: Scenario ``slow``: clients that read nothing.
        processes: Load processes.
        seed: Seed of every random choice.
        run: A number that no other run has; it is in every openid and every payload.
        timeout: Longest wait for a connection and a login, and for progress of open operations at
            the end, seconds.
    """

    scenario: str
    clients: int
    in_flight: int = 1
    rate: float = 0.0
    duration: float = 10.0
    warmup: float = 2.0
    payload: int = 128
    backend: str = "auto"
    server: Place = NOWHERE
    push_server: str = ""
    push_ca: str = ""
    push_cert: str = ""
    push_key: str = ""
    push_token_file: str = ""
    ca: str = ""
    insecure: bool = False
    token: str = ""
    signer: TokenSigner | None = None
    upstream_delay_ms: int = 0
    slow_clients: int = 0
    processes: int = 1
    seed: int = 1
    run: int = 0
    timeout: float = 10.0

    @property
    def kind(self) -> Scenario:
        """The scenario itself."""
        return SCENARIOS[self.scenario]

    @property
    def model(self) -> str:
        """``closed``, ``open``, or empty if the scenario has its own way."""
        models = self.kind.models
        if not models:
            return ""
        return "open" if self.rate else "closed"

    def token_for(self, openid: str) -> str:
        """Return a client's auth_token."""
        return self.token if self.signer is None else self.signer.sign(openid)

    @property
    def has_push_access(self) -> bool:
        """Whether there are credentials for the push port."""
        return bool(self.push_ca or self.push_cert or self.push_key or self.push_token_file)

    def push_access(self) -> Access:
        """Return the credentials for the push port.

        Raises:
            ConfigError: A file cannot be used.
        """
        from ..credentials import Access

        return Access(self.push_ca, self.push_cert, self.push_key, self.push_token_file)

    def share(self, process: int) -> range:
        """Return the numbers of the clients that a load process runs."""
        return range(
            self.clients * process // self.processes,
            self.clients * (process + 1) // self.processes,
        )
