"""Slots: which worker serves each slot, and when the next one is started; no processes, no clock.

A slot is a place among the sockets of the gateway: datagrams that the kernel spreads over N sockets
come to N slots. One worker serves a slot; while it is replaced, its successor starts beside it::

    starting ──ready()──> serving ──retire()──> leaving
        │                    │                     │
        └──── ended() ───────┴──── ended() ────────┘──> gone

The end of a worker that starts or serves is a death: its slot gets another one, after a pause that
doubles with each death and begins anew once a worker has lived for a minute. The end of one that
leaves is what was asked of it.

A worker's number says its slot, ``number % slots``, and is part of the ids of its connections. No
two live workers have the same; a number is free again when all others of its slot have been used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["NUMBERS", "STEADY_S", "Phase", "Slots"]

NUMBERS = 256
"""Worker numbers there are."""
STEADY_S = 60.0
"""Life of a worker after which its death is no failure of the one before again."""

Phase = Literal["starting", "serving", "leaving"]


@dataclass(slots=True)
class _Live:
    slot: int
    phase: Phase = "starting"
    ready_at: float | None = None


class Slots:
    """The slots of a gateway and the workers in them, by their numbers.

    Args:
        count: Slots.
        restart_min: Pause after the first death, seconds.
        restart_max: Longest pause.
    """

    def __init__(self, count: int, *, restart_min: float, restart_max: float) -> None:
        self.count = count
        self._restart_min = restart_min
        self._restart_max = restart_max
        self._live: dict[int, _Live] = {}
        self._last = [slot - count for slot in range(count)]
        self._deaths = [0] * count

    def apply(self, *, restart_min: float, restart_max: float) -> None:
        """Take other pauses."""
        self._restart_min, self._restart_max = restart_min, restart_max

    def numbers(self, slot: int | None = None) -> list[int]:
        """Return the numbers of the live workers: of one slot, or of all."""
        return [n for n, live in self._live.items() if slot is None or live.slot == slot]

    def phase(self, number: int) -> Phase | None:
        """Return a worker's phase, None for one that is gone."""
        live = self._live.get(number)
        return None if live is None else live.phase

    def covers(self) -> dict[int, list[int]]:
        """Return, of each worker that serves, the slots without one that it is to cover.

        A slot that no worker serves is covered by the one of the next slot that has one.
        """
        serving = {live.slot: n for n, live in self._live.items() if live.phase == "serving"}
        found: dict[int, list[int]] = {
            n: [] for n, live in self._live.items() if live.phase == "serving"
        }
        taker = serving[min(serving)] if serving else -1
        for slot in reversed(range(self.count)):
            if slot in serving:
                taker = serving[slot]
            elif serving:
                found[taker].append(slot)
        return found

    def deaths(self, slot: int) -> int:
        """Return how many workers of a slot have died since one lived for a minute."""
        return self._deaths[slot]

    def begin(self, slot: int) -> int:
        """Return the number of a new worker for a slot; it starts.

        Raises:
            LookupError: All numbers of the slot are in use.
        """
        number = self._last[slot]
        for _ in range(slot, NUMBERS, self.count):
            number += self.count
            if number >= NUMBERS:
                number = slot
            if number not in self._live:
                self._last[slot] = number
                self._live[number] = _Live(slot)
                return number
        raise LookupError(f"all numbers of slot {slot} are in use")

    def ready(self, number: int, now: float) -> None:
        """Note that a worker serves."""
        live = self._live[number]
        live.ready_at = now
        if live.phase == "starting":
            live.phase = "serving"

    def retire(self, number: int) -> None:
        """Note that a worker was asked to leave."""
        self._live[number].phase = "leaving"

    def ended(self, number: int, now: float) -> float | None:
        """Forget a worker; return the pause before its slot gets another one, None for none.

        There is none where it was asked to leave, or where the slot has another worker that starts
        or serves.
        """
        live = self._live.pop(number)
        slot = live.slot
        if live.ready_at is not None and now - live.ready_at >= STEADY_S:
            self._deaths[slot] = 0
        if live.phase == "leaving":
            return None
        self._deaths[slot] += 1
        if any(self._live[n].phase != "leaving" for n in self.numbers(slot)):
            return None
        doublings = min(self._deaths[slot] - 1, 32)
        return min(self._restart_min * 2.0**doublings, self._restart_max)
