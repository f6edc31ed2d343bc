"""UpstreamManager: the endpoints, the lanes to them, and the choice of a lane for each call."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from ..config import PushConfig
from ..errors import ErrorCode, UpstreamError
from ..observe.clock import RunningClock
from .breaker import Breakers
from .call import Call, MethodCall, UpstreamCounters
from .lane import RETRY_MS, Lane, new_batch_sizes
from .lanes import is_other_lane, new_lane
from .pool import Member, Pool
from .registry import ANY_SERVICE, Registration, UpstreamRegistry
from .resolver import LookUp, NameLane, NameWatch, look_up
from .target import Target
from .tls import UpstreamCredentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..config import RouteRule, UpstreamConfig

__all__ = ["EndpointStatus", "UpstreamManager"]

STOP_S = 5.0
"""Longest wait for open answers when the manager stops."""
REMOVED_LANE_S = 30.0
"""Longest wait for the open answers of an endpoint that was removed."""


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """The current state of one endpoint, or of one address of its name.

    Attributes:
        service: The service it serves, ``*`` for all.
        zone: The zone it serves, empty for all.
        address: HOST:PORT or unix:PATH: where it is reached.
        name: The name that the address was resolved from; empty where the address is configured.
        state: ``connecting``, ``unary``, ``stream``, ``down`` or ``stopped``.
        is_up: Whether it can be reached and reports no trouble.
        is_registered: True if it registered itself, False if it is configured.
        weight: Its share of the calls.
        open_calls: Calls written and not yet ended, for all endpoints at this address.
        waiting_calls: Calls not yet written, for all endpoints at this address.
        max_open: Most calls that may be open now, for all endpoints at this address.
        breaker: ``closed``, ``open`` (ejected: it gets no calls) or ``half_open`` (only probes).
        ejections: Ejections in a row.
        answered: Calls that it has answered.
        faults: Calls that it has failed.
    """

    service: str
    zone: str
    address: str
    name: str
    state: str
    is_up: bool
    is_registered: bool
    weight: int
    open_calls: int
    waiting_calls: int
    max_open: int
    breaker: str
    ejections: int
    answered: int
    faults: int


class UpstreamManager:
    """Calls upstream services.

    Endpoints with the same address share one lane, so their calls share its messages.

    Args:
        config: Services, limits and times.
        max_message_bytes: The gateway's message limit.
        push: The rules for registering.
        rules: The routes; upstreams may register for the services they name.
        auth_service: The service that authenticates clients, empty for none: only its configured
            endpoints serve it, because one that registers itself could let anybody in.
        counters: The layer's counters.
        clock: Time base of the calls' deadlines and of the leases; loop time by default.
        look_up: Returns the addresses of endpoints' names.

    Raises:
        ConfigError: A file of ``upstream.tls`` cannot be read or used.
    """

    def __init__(
        self,
        config: UpstreamConfig,
        max_message_bytes: int,
        *,
        push: PushConfig | None = None,
        rules: Iterable[RouteRule] = (),
        auth_service: str = "",
        counters: UpstreamCounters | None = None,
        clock: RunningClock | None = None,
        look_up: LookUp = look_up,
    ) -> None:
        self._config = config
        self._max_message_bytes = max_message_bytes
        self._auth_service = auth_service
        self._counters = UpstreamCounters() if counters is None else counters
        self._clock = clock or RunningClock(lambda: asyncio.get_running_loop().time())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tls = UpstreamCredentials.of(config.tls)
        self._look_up = look_up
        self._lanes: dict[Target, Lane] = {}
        self._names: dict[Target, NameWatch] = {}
        self._members: dict[Registration, dict[Target, Member]] = {}  # one, or one an address
        self._pools: dict[str, Pool] = {}  # by service, made on first use
        self._lease_timer: asyncio.TimerHandle | None = None
        self._breakers = Breakers(config, self._counters, self._clock.now, self._breakers_changed)
        self._breaker_timer: asyncio.TimerHandle | None = None
        self.batch_sizes = new_batch_sizes()
        """Messages of lanes by the requests in them: 1, 2, up to 4, up to 8 and so on."""
        self._stopping: set[asyncio.Task[None]] = set()
        self._is_stopped = False
        self.registry = UpstreamRegistry(
            config.services,
            push or PushConfig(),
            (rule.service for rule in rules),
            self._counters,
            self._now,
            on_added=self._add,
            on_removed=self._remove,
            is_down=self._is_down,
            reserved=auth_service,
        )
        """The table of endpoints; upstreams register here once the manager runs."""
        self.next_request_id = count(1).__next__
        """Return a request id that is unique in this process."""

    # Life.

    async def start(self) -> None:
        """Begin to connect to the configured endpoints, without waiting for any of them.

        Raises:
            RuntimeError: It was started before.
        """
        if self._loop is not None:
            raise RuntimeError("UpstreamManager was started before")
        self._loop = asyncio.get_running_loop()
        for endpoint in self.registry.endpoints:
            self._add(endpoint)

    async def stop(self, grace: float = STOP_S) -> None:
        """Stop every lane; calls without an answer after grace end with 502. Idempotent."""
        self._is_stopped = True
        for timer in (self._lease_timer, self._breaker_timer):
            if timer is not None:
                timer.cancel()
        self.registry.close()
        for watch in self._names.values():
            watch.stop()
        self._names.clear()
        stops = [asyncio.ensure_future(lane.stop(grace)) for lane in self._lanes.values()]
        self._lanes.clear()
        self._members.clear()
        self._pools.clear()
        if stops := [*stops, *self._stopping]:
            await asyncio.wait(stops)
            for stop in stops:
                stop.result()

    def prepare(
        self,
        config: UpstreamConfig,
        *,
        push: PushConfig,
        rules: Iterable[RouteRule],
        auth_service: str,
    ) -> Callable[[], None]:
        """Return a function that takes other endpoints, rules, limits and times; the manager runs.

        A lane to an address that stays goes on. One to an address that goes, or that needs another
        kind of connection, takes no more calls and has REMOVED_LANE_S to end those that are open.

        Raises:
            ConfigError: A file of ``upstream.tls`` cannot be read or used.
        """
        tls = UpstreamCredentials.of(config.tls)

        def commit() -> None:
            before, self._config = self._config, config
            self._auth_service = auth_service
            self._breakers.apply(config)
            is_other_tls = config.tls != before.tls
            if is_other_tls:
                self._tls = tls
            needs_others = is_other_tls or is_other_lane(before, config, self._max_message_bytes)
            for watch in self._names.values():
                watch.apply(config)
            for key, lane in list(self._lanes.items()):
                if needs_others and not key.is_name:
                    self._replace(key, lane)
                else:
                    lane.apply(config)
            known = [rule.service for rule in rules]
            self.registry.apply(config.services, push, known, auth_service)
            self._pools.clear()
            self._set_breaker_timer()

        return commit

    def sweep(self, now: float) -> None:
        """Look whether files have changed, and log what was suppressed. Call it once a second."""
        self.registry.sweep(now)
        if self._tls is not None and self._tls.follow():
            for key, lane in list(self._lanes.items()):
                if lane.keeps_credentials:
                    self._replace(key, lane)

    @property
    def counters(self) -> UpstreamCounters:
        """The layer's counters, with the gauges brought up to date."""
        counters = self._counters
        lanes = self._lanes.values()
        counters.endpoints = sum(map(len, self._members.values()))
        counters.lanes = len(self._lanes)
        counters.lanes_up = sum(lane.is_up for lane in lanes)
        counters.connections = sum(lane.connections for lane in lanes)
        counters.ejected = self._breakers.ejected
        counters.open = sum(lane.open_calls for lane in lanes)
        counters.waiting = sum(lane.waiting_calls for lane in lanes)
        return counters

    def endpoints(self) -> list[EndpointStatus]:
        """Return the current state of every endpoint."""
        return [
            EndpointStatus(
                endpoint.service,
                endpoint.zone,
                member.lane.address,
                member.lane.target.name,
                member.lane.state.value,
                member.lane.is_up,
                bool(endpoint.lease_id),
                endpoint.weight,
                member.lane.open_calls,
                member.lane.waiting_calls,
                member.lane.max_open,
                member.breaker.state.value,
                member.breaker.ejections,
                member.breaker.answered,
                member.breaker.faults,
            )
            for endpoint, members in self._members.items()
            for member in members.values()
        ]

    def is_usable(self, service: str) -> bool:
        """Return whether an endpoint of a service can be reached and is not ejected."""
        pool = self._pools.get(service) or self._pool(service)
        return pool is not None and pool.is_usable

    # Calls.

    def has_service(self, service: str) -> bool:
        """Whether a service is configured or has an endpoint now."""
        return self.registry.has_service(service)

    def send(self, call: Call) -> None:
        """Send a call to an endpoint of its service.

        The call ends once, and never before send() returns: with the answer, or with an
        UpstreamError: 404 no such service, 502 unreachable or connection lost, 503 refused,
        overloaded or ejected, 504 no answer in time, or the code that the service's gRPC status
        maps to. The caller checks whether the answer's client_seq_id is the request's.

        Args:
            call: A new call; its request_id comes from next_request_id() and is in the request.
        """
        self._counters.calls += 1
        pool = self._pools.get(call.service)
        if pool is None and (pool := self._pool(call.service)) is None:
            self._counters.no_service += 1
            call.fail(f"no service {call.service}", ErrorCode.NO_ROUTE, status="no_service")
            return
        member = pool.pick(call.openid, call.zone)
        if member is None:
            self._fail_unsent(pool, call)
            return
        breaker = call.breaker = member.breaker
        if breaker.is_half_open:
            breaker.begin_probe(call.request_id)
        member.lane.submit(call)

    def _fail_unsent(self, pool: Pool, call: Call) -> None:
        """End a call that no endpoint takes."""
        if ejected := pool.ejected(call.openid, call.zone):
            now = self._clock.now()
            self._counters.rejected_calls += 1
            call.fail(
                f"every endpoint of {call.service} that can be reached is ejected",
                ErrorCode.BUSY,
                status="ejected",
                address=ejected[0].address,
                retry_after_ms=min(breaker.retry_after_ms(now) for breaker in ejected),
            )
        else:
            self._counters.unsent_calls += 1
            call.fail(f"no endpoint of {call.service} can be reached", status="unreachable")

    async def ask(
        self, service: str, method: str, request: bytes, within: float, openid: str = ""
    ) -> bytes:
        """Call a gRPC method of a service and return its response, serialized.

        Args:
            service: The service's name.
            method: ``/package.Service/Method``.
            request: The request, serialized.
            within: Longest wait, seconds.
            openid: For consistent hashing.

        Raises:
            UpstreamError: As send() ends a call; a gRPC status among them.
        """
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end(answer: object, error: UpstreamError | None) -> None:
            if answered.done():
                return
            if error is None:
                answered.set_result(None)
            else:
                answered.set_exception(error)

        request_id, deadline = self.next_request_id(), self._clock.now() + within
        call = MethodCall(end, method, request, request_id, deadline, service, openid)
        try:
            self.send(call)
            await answered
        finally:
            call.give_up()
        return call.reply

    def _pool(self, service: str) -> Pool | None:
        if self._is_stopped or not self.has_service(service):
            return None
        names = (service,) if service == self._auth_service else (service, ANY_SERVICE)
        pool = self._pools[service] = Pool(
            [
                member
                for endpoint, members in self._members.items()
                if endpoint.service in names
                for member in members.values()
            ],
            self._config.balance,
        )
        return pool

    def _place_elsewhere(self, lane: Lane, call: Call) -> bool:
        pool = self._pools.get(call.service) or self._pool(call.service)
        other = pool.pick(call.openid, call.zone, lane) if pool is not None else None
        if other is None:
            return False
        # The new lane counts the waiting time from now, so take the old one off here.
        call.upstream_req = call.request_at(self._clock.now())
        if call.breaker is not None:
            call.breaker.release(call.request_id)
        breaker = call.breaker = other.breaker
        if breaker.is_half_open:
            breaker.begin_probe(call.request_id)
        other.lane.submit(call)
        return True

    def _stranded(self, lane: Lane, calls: list[Call]) -> list[Call]:
        """Move calls that a lane has not written to other lanes; return the rest."""
        left = [call for call in calls if not self._place_elsewhere(lane, call)]
        self._counters.moved_calls += len(calls) - len(left)
        return left

    def _refused(self, lane: Lane, call: Call) -> None:
        """Try a refused call once more on another lane."""
        if not call.is_refused:
            call.is_refused = True
            if self._place_elsewhere(lane, call):
                return
        self._counters.not_started += 1
        call.fail(
            "refused",
            ErrorCode.BUSY,
            status="refused",
            address=lane.address,
            retry_after_ms=RETRY_MS,
        )

    # Endpoints.

    def _add(self, endpoint: Registration) -> None:
        self._set_lease_timer()
        if members := self._members.get(endpoint):
            for member in members.values():
                member.lane.retry_now()
            return
        self._members[endpoint] = {}
        for key in self._keys(endpoint):
            self._join(endpoint, key)

    def _remove(self, endpoint: Registration) -> None:
        for key in list(self._members[endpoint]):
            self._leave(endpoint, key)
        del self._members[endpoint]
        self._set_lease_timer()
        name = Target.of(endpoint.address, endpoint.authority)
        if watch := self._names.get(name):
            watch.endpoints.remove(endpoint)
            if not watch.endpoints:
                watch.stop()
                del self._names[name]

    def _is_down(self, endpoint: Registration) -> bool:
        return not any(member.lane.is_up for member in self._members[endpoint].values())

    def _keys(self, endpoint: Registration) -> Sequence[Target]:
        """Return the targets of an endpoint: one, or those of its name as far as they are known."""
        target = Target.of(endpoint.address, endpoint.authority)
        if not target.is_name:
            return [target]
        watch = self._names.get(target)
        if watch is None:
            watch = self._names[target] = NameWatch(
                target,
                self._config,
                self._counters,
                on_addresses=self._resolved,
                on_failure=self._unresolved,
                is_broken=self._is_broken,
                look_up=self._look_up,
            )
            watch.start()
        watch.endpoints.append(endpoint)
        return watch.targets or [target]

    def _resolved(self, watch: NameWatch) -> None:
        """Add the new addresses of a name, and remove those that are gone."""
        for endpoint in watch.endpoints:
            members = self._members[endpoint]
            for key in watch.targets:
                if key not in members:
                    self._join(endpoint, key)
            for key in members.keys() - set(watch.targets):
                self._leave(endpoint, key)

    def _unresolved(self, watch: NameWatch, reason: str) -> None:
        lane = self._lanes[watch.name]
        assert isinstance(lane, NameLane)
        lane.fail(reason)

    def _is_broken(self, watch: NameWatch) -> bool:
        lanes = [self._lanes[key] for key in watch.targets if key in self._lanes]
        return any(not (lane.is_up or lane.is_new) for lane in lanes)

    def _join(self, endpoint: Registration, key: Target) -> None:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._open_lane(key)
        else:
            lane.retry_now()
        lane.users += 1
        breaker = self._breakers.add(endpoint, lane.address)
        self._members[endpoint][key] = Member(endpoint, lane, breaker)
        self._pools.clear()
        self._set_breaker_timer()

    def _leave(self, endpoint: Registration, key: Target) -> None:
        member = self._members[endpoint].pop(key)
        lane = member.lane
        self._breakers.remove(member.breaker)
        self._pools.clear()
        lane.users -= 1
        if not lane.users:
            del self._lanes[key]
            self._end_lane(lane)

    def _open_lane(self, key: Target) -> Lane:
        lane = self._lanes[key] = (NameLane if key.is_name else new_lane)(
            key.served_as(self._config.tls.server_name),
            self._config,
            self._max_message_bytes,
            self._counters,
            tls=self._tls,
            on_change=self._lanes_changed,
            on_stranded=self._stranded,
            on_refused=self._refused,
            clock=self._clock,
            batch_sizes=self.batch_sizes,
        )
        if isinstance(lane, NameLane):
            lane.on_retry = self._names[key].look_now
        lane.start()
        return lane

    def _end_lane(self, lane: Lane) -> None:
        stop = asyncio.ensure_future(lane.stop(REMOVED_LANE_S))
        self._stopping.add(stop)
        stop.add_done_callback(self._stopping.discard)

    def _replace(self, key: Target, lane: Lane) -> None:
        """Open another lane to an address, with a connection of its own, and end this one."""
        other = self._open_lane(key)
        other.users, lane.users = lane.users, 0
        for members in self._members.values():
            if key in members:
                members[key].lane = other
        self._end_lane(lane)

    def _lanes_changed(self) -> None:
        for pool in self._pools.values():
            pool.lanes_changed()
        for watch in self._names.values():
            if self._is_broken(watch):
                watch.look_now()

    def _breakers_changed(self) -> None:
        self._lanes_changed()
        self._set_breaker_timer()

    def _set_breaker_timer(self) -> None:
        if self._breaker_timer is not None:
            self._breaker_timer.cancel()
            self._breaker_timer = None
        due = self._breakers.get_timer()
        if due is not None and self._loop is not None and not self._is_stopped:
            when = self._clock.loop_time(due)
            self._breaker_timer = self._loop.call_at(when, self._handle_breakers)

    def _handle_breakers(self) -> None:
        self._breaker_timer = None
        self._breakers.handle_timer(self._clock.now())
        self._set_breaker_timer()

    def _set_lease_timer(self) -> None:
        if self._lease_timer is not None:
            self._lease_timer.cancel()
            self._lease_timer = None
        due = self.registry.get_timer()
        if due is not None and self._loop is not None and not self._is_stopped:
            self._lease_timer = self._loop.call_at(self._clock.loop_time(due), self._handle_leases)

    def _handle_leases(self) -> None:
        self._lease_timer = None
        self.registry.handle_timer(self._now())
        self._set_lease_timer()

    def _now(self) -> float:
        if self._loop is None or self._is_stopped:
            raise RuntimeError("UpstreamManager is not running")
        return self._clock.now()
