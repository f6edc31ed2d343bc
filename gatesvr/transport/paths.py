"""Paths: how the QUIC paths of all connections do, looked at off the path of datagrams."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from .._core.histogram import Histogram
    from .connection import Connection

__all__ = ["Paths"]

SLICE = 2_000
"""Connections that one call of look() looks at, some 2 ms."""


class Paths:
    """Goes through all connections, SLICE of them a call, and sums up their paths.

    Args:
        connections: The connections that have not ended; the listener's own.
        rtts: Takes the round trips, None for nobody.

    Attributes:
        connections: Those that were looked at in the last whole round; the rest are of these.
        rtt_s: Mean smoothed round trip.
        congestion_window: Mean bytes that may be in flight.
        in_flight: Bytes sent and not acknowledged, of all.
    """

    def __init__(self, connections: Collection[Connection], rtts: Histogram | None) -> None:
        self.connections = 0
        self.rtt_s = 0.0
        self.congestion_window = 0.0
        self.in_flight = 0
        self._all = connections
        self._rtts = rtts
        self._left: list[Connection] = []  # those that this round has not looked at yet
        self._sums = (0, 0, 0.0, 0, 0)

    def look(self) -> None:
        """Look at the next SLICE connections; the figures are those of the last whole round.

        Call it once a second.
        """
        left = self._left
        if not left:
            left.extend(self._all)
            self._sums = (0, 0, 0.0, 0, 0)
        count, timed, rtt_s, window, in_flight = self._sums
        rtts = self._rtts
        for connection in left[-SLICE:]:
            path = connection.path()
            if path is None:
                continue
            count += 1
            window += path.congestion_window
            in_flight += path.in_flight
            if path.rtt_s:
                timed += 1
                rtt_s += path.rtt_s
                if rtts is not None:
                    rtts.record(path.rtt_s)
        del left[-SLICE:]
        self._sums = (count, timed, rtt_s, window, in_flight)
        if not left:
            self.connections = count
            self.rtt_s = rtt_s / timed if timed else 0.0
            self.congestion_window = window / count if count else 0.0
            self.in_flight = in_flight
