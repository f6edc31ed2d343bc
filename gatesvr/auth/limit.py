"""FailureLimit: an address or an openid whose authentications fail waits before the next ones.

A bucket holds as many failures as are allowed at once. Each failure takes one, down to none, and
one comes back every second: however many fail at the same time, the next second has room again. To
keep a crowd from guessing in that one place, a bucket lets in no more attempts than it holds, those
under way included. An address's bucket that is full counts nobody: many clients may share an
address, and come back all at once.

An openid's bucket counts guesses alone (GUESSES), and not from the prefix that the openid was last
let in from. Otherwise whoever knows a user's openid could keep that user out.
"""

from __future__ import annotations

from itertools import islice
from typing import Generic, TypeVar

from ..protocol.messages import MAX_OPENID_BYTES, is_valid_text
from ..protocol.network import network_of
from .reasons import Reason

_Key = TypeVar("_Key", str, bytes)

__all__ = ["Attempt", "FailureLimit"]

RATE = 1.0
"""Failures a second that a bucket gets back."""
MAX_KEYS = 10_000
"""Networks, and openids, remembered."""
LOOKED_AT = 8
"""Above it, of so many that failed longest ago the fullest makes room, and the newcomer goes on at
its level. So a bucket that was emptied stays, and nobody gains by many keys."""
GUESSES = frozenset((Reason.SIGNATURE, Reason.DENIED))
"""Refusals of what may be a guess at somebody's token."""


class FailureLimit:
    """The failures of each network (an IPv4 address, an IPv6 /64) and of each openid.

    Args:
        per_address: Failures of a network at once, 0 for no limit.
        per_openid: Guesses at an openid at once, 0 for no limit.
    """

    def __init__(self, per_address: int, per_openid: int) -> None:
        self._addresses: _Buckets[bytes] = _Buckets(per_address, is_shared=True)
        self._openids: _Buckets[str] = _Buckets(per_openid, is_shared=False)
        self._homes: dict[str, bytes] = {}  # openid: the network that it was last let in from

    def apply(self, per_address: int, per_openid: int) -> None:
        """Take other limits; failures up to now count on."""
        self._addresses.burst = float(per_address)
        self._openids.burst = float(per_openid)

    def allows(self, ip: str, openid: str, now: float) -> bool:
        """Return whether a client may try to authenticate.

        Args:
            ip: Its address.
            openid: What it says it is, empty where it leaves that to its token.
            now: Loop time.
        """
        network = network_of(ip)
        return self._addresses.allows(network, now) and (
            self._openids.allows(openid, now) or self._homes.get(openid) == network
        )

    def begin(self, ip: str, openid: str, now: float) -> Attempt | None:
        """Return an attempt that takes its time, None where too many have failed; see allows()."""
        if not self.allows(ip, openid, now):
            return None
        network = network_of(ip)
        is_counted = self._homes.get(openid) != network and is_valid_text(openid, MAX_OPENID_BYTES)
        address = self._addresses.begin(network, now)
        return Attempt(self, address, self._openids.begin(openid if is_counted else "", now), ip)

    def failed(self, ip: str, openid: str, failure: Reason, now: float) -> None:
        """Enter an attempt that took no time and failed."""
        attempt = self.begin(ip, openid, now)
        if attempt is not None:
            attempt.end(now, failure=failure)

    def let_in(self, openid: str, ip: str) -> None:
        """Remember where an openid was let in from."""
        self._homes.pop(openid, None)
        self._homes[openid] = network_of(ip)
        if len(self._homes) > MAX_KEYS:
            del self._homes[next(iter(self._homes))]


class Attempt:
    """One authentication, from FailureLimit.begin() to end()."""

    __slots__ = ("_address", "_ip", "_limit", "_openid")

    def __init__(
        self,
        limit: FailureLimit,
        address: _Bucket[bytes] | None,
        openid: _Bucket[str] | None,
        ip: str,
    ) -> None:
        self._limit = limit
        self._address = address
        self._openid = openid
        self._ip = ip

    def end(self, now: float, *, failure: Reason | None = None, openid: str = "") -> None:
        """Enter its outcome.

        Args:
            now: Loop time.
            failure: Why the client was refused, None where it was not.
            openid: Who was let in, empty where nobody was.
        """
        if self._address is not None:
            self._address.end(now, is_failure=failure is not None)
        if self._openid is not None:
            self._openid.end(now, is_failure=failure in GUESSES)
        if openid:
            self._limit.let_in(openid, self._ip)


class _Bucket(Generic[_Key]):
    """What a key has left, and its attempts under way."""

    __slots__ = ("at", "buckets", "key", "left", "under_way")

    def __init__(self, buckets: _Buckets[_Key], key: _Key, now: float) -> None:
        self.buckets: _Buckets[_Key] = buckets
        self.key: _Key = key
        self.left = buckets.burst
        self.at = now
        self.under_way = 0

    def refill(self, now: float) -> float:
        """Give back what the time since the last look is worth; return what is left."""
        self.left = min(self.buckets.burst, self.left + RATE * (now - self.at))
        self.at = now
        return self.left

    def end(self, now: float, *, is_failure: bool) -> None:
        """Leave one attempt behind."""
        self.refill(now)
        self.under_way -= 1
        if is_failure:
            self.left = max(0.0, self.left - 1.0)
            self.buckets.keep(self)
        elif not self.under_way and self.left >= self.buckets.burst:
            self.buckets.drop(self)


class _Buckets(Generic[_Key]):
    """Buckets by their key, those that failed last at the end; an empty key has none.

    Args:
        burst: Failures at once, 0 for no limit.
        is_shared: Whether many clients may share a key.
    """

    def __init__(self, burst: int, *, is_shared: bool) -> None:
        self.burst = float(burst)
        self._is_shared = is_shared
        self._buckets: dict[_Key, _Bucket[_Key]] = {}

    def allows(self, key: _Key, now: float) -> bool:
        """Return whether another attempt may begin."""
        bucket = self._buckets.get(key)
        if bucket is None or not self.burst:
            return True
        left = bucket.refill(now)
        return (self._is_shared and left >= self.burst) or left - bucket.under_way >= 1.0

    def begin(self, key: _Key, now: float) -> _Bucket[_Key] | None:
        """Count an attempt, and return its bucket."""
        if not key or not self.burst:
            return None
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = _Bucket(self, key, now)
            if len(self._buckets) >= MAX_KEYS:
                self._make_room(bucket, now)
            self._buckets[key] = bucket
        bucket.under_way += 1
        return bucket

    def keep(self, bucket: _Bucket[_Key]) -> None:
        """Move a bucket to the end."""
        if self._buckets.pop(bucket.key, None) is None and len(self._buckets) >= MAX_KEYS:
            self._make_room(bucket, bucket.at)  # it made room itself, meanwhile
        self._buckets[bucket.key] = bucket

    def drop(self, bucket: _Bucket[_Key]) -> None:
        """Forget a bucket that is full."""
        if self._buckets.get(bucket.key) is bucket:
            del self._buckets[bucket.key]

    def _make_room(self, newcomer: _Bucket[_Key], now: float) -> None:
        oldest = islice(self._buckets.values(), LOOKED_AT)
        fullest = max(oldest, key=lambda bucket: bucket.refill(now))
        newcomer.left = min(newcomer.left, fullest.left)
        del self._buckets[fullest.key]
