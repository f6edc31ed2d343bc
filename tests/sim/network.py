"""A connection between a device and the gateway: bytes under way, cuts, closes that come late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatesvr.errors import ProtocolError
from gatesvr.protocol.link import Disconnect

if TYPE_CHECKING:
    from .device import Device
    from .gateway import Gateway
    from .world import World

SIGN_OF_LIFE_S = 5.0
"""Silence within which a connection shows life (PROTOCOL 3.3)."""


class Connection:
    """Both ends of one connection; to the gateway it is the Link.

    Attributes:
        ordinal: The device's own count of its connections.
        up: Bytes under way to the gateway.
        unsent: Bytes that the gateway has written and not transmitted.
        down: Bytes under way to the device.
        alive_since: From then on it has shown life all the time.
        is_cut: Nothing passes any more, and nobody is told.
        is_calm: It was opened when the network did no more harm.
        client_open: Whether the device still uses it.
        client_close: The code of the device's close, under way to the gateway.
        gateway_open: Whether the gateway has it.
        gateway_close: The gateway's close, under way to the device: code, reason.
        to_report: How it ended, while the handler is not told yet.
    """

    def __init__(self, world: World, device: Device, gateway: Gateway, number: int) -> None:
        self.world = world
        self.device = device
        self.gateway = gateway
        self.connection_id = number
        self.ordinal = device.connections
        self.peer = (device.ip, 1_000 + number)
        self.keep_alive = True
        self.transport = "quic"
        self.idle_timeout = 60.0
        self.last_heard = self.alive_since = world.now
        self.up = bytearray()
        self.unsent = bytearray()
        self.down = bytearray()
        self.is_cut = False
        self.is_calm = False
        self.is_awake = False
        self.is_dirty = False
        self.client_open = True
        self.client_close: int | None = None
        self.gateway_open = True
        self.is_reported = False
        self.to_report: Disconnect | None = None
        self.gateway_close: tuple[int, str] | None = None
        self.handler = gateway.dispatcher.handler(self)
        self.handler.connection_made(world.now)

    def __repr__(self) -> str:
        return f"#{self.connection_id}"

    @property
    def is_over(self) -> bool:
        """Whether nothing can come of it any more."""
        return self.is_reported and not self.client_open

    # The Link.

    @property
    def is_closing(self) -> bool:
        return not self.gateway_open

    def write(self, data: bytes) -> None:
        if self.gateway_open:
            self.unsent += data

    def unsent_bytes(self) -> int:
        return len(self.unsent)

    def request_flush(self) -> None:
        self.is_dirty = True

    def wake(self) -> None:
        self.is_awake = True

    def close(self, code: int, reason: str = "", *, last: bytes = b"") -> None:
        if not self.gateway_open:
            return
        self.world.note("gateway closes %s: %d %s", self, code, reason)
        self.unsent += last
        self.down += self.unsent
        self.unsent.clear()
        self.gateway_open = False
        self.gateway_close = (int(code), reason)
        self._report(Disconnect("local", int(code), reason))

    # What happens to it.

    def deliver_up(self, size: int) -> None:
        """Hand bytes to the gateway."""
        data = bytes(self.up[:size])
        del self.up[:size]
        now = self.world.now
        if now - self.last_heard > SIGN_OF_LIFE_S - 0.1:
            self.alive_since = now
        self.last_heard = now
        self.world.note("%s → gateway: %d bytes", self, len(data))
        try:
            self.world.loop.call(self.handler.data_received, data, self.world.now)
        except ProtocolError as error:
            self.fail(error)

    def work(self) -> None:
        """Let the connection task run."""
        self.is_awake = False
        self.world.note("%s works", self)
        try:
            self.world.loop.run(self.handler.work())
        except ProtocolError as error:
            self.fail(error)

    def flush(self) -> None:
        """Let the gateway feed the stream at the end of its loop turn."""
        self.is_dirty = False
        self.handler.write_ready(self.world.now)

    def transmit(self, size: int) -> None:
        """Send bytes on their way; ask for more."""
        self.down += self.unsent[:size]
        del self.unsent[:size]
        if self.gateway_open and len(self.unsent) < self.world.low_water:
            self.handler.write_ready(self.world.now)

    def fail(self, error: ProtocolError) -> None:
        """The gateway calls its client's bytes wrong: no client of ours sends such."""
        session = self.handler.session
        name = session.session_id if session is not None else self.device.name
        self.world.checker.broken(name, f"gateway: {error}")
        self.close(error.close_code, str(error))

    def lose(self, how: Disconnect) -> None:
        """The gateway finds out that it is gone."""
        self.gateway_open = False
        self._report(how)

    def end_stream(self) -> None:
        """FIN, RESET or STOP_SENDING of the device reaches the gateway."""
        self.world.note("stream of %s ends", self)
        self.handler.stream_ended(self.world.now)

    def crash(self) -> None:
        """The gateway's process is gone."""
        self.gateway_open = False
        self.is_reported = True
        self.is_cut = True

    def report(self) -> None:
        """Tell the handler of the end."""
        how, self.to_report = self.to_report, None
        if how is not None and not self.is_reported:
            self.is_reported = True
            self.up.clear()
            self.world.note("gateway has lost %s: %s %d", self, how.kind, how.code)
            self.handler.connection_lost(how, self.world.now)

    def _report(self, how: Disconnect) -> None:
        self.unsent.clear()
        self.to_report = how
        if not self.world.is_sloppy:
            self.up.clear()
            # As the transport does: close() may have been called by the handler.
            self.world.loop.call_soon(self.report)
