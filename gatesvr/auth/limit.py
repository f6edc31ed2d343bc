"""FailureLimit: an address or an openid whose authentications fail waits before the next ones.

A bucket holds as many failures as are allowed at once. Each failure takes one, down to none, and
one comes back every second: however many fail at the same time, the next second has room again. To
keep a crowd from guessing in that one place, a bucket that is not full lets in no more attempts
than it holds, those under way included. A full one counts nobody: many clients may share an
address, and come back all at once.

An openid's bucket counts guesses alone (GUESSES), and not from the prefix that the openid was last
let in from. Otherwise whoever knows a user's openid could keep that user out.
"""

from __future__ import annotations

import ipaddress

from ..protocol.messages import MAX_OPENID_BYTES, is_valid_text
from .reasons import Reason

__all__ = ["Attempt", "FailureLimit"]

RATE = 1.0
"""Failures a second that a bucket gets back."""
MAX_KEYS = 10_000
"""Prefixes, and openids, remembered; above it the one that failed longest ago is forgotten."""
GUESSES = frozenset((Reason.SIGNATURE, Reason.DENIED))
"""Refusals of what may be a guess at somebody's token."""


class FailureLimit:
    """The failures of each address prefix (an IPv4 address, an IPv6 /64) and of each openid.

    Args:
        per_address: Failures of a prefix at once, 0 for no limit.
        per_openid: Guesses at an openid at once, 0 for no limit.
    """

    def __init__(self, per_address: int, per_openid: int) -> None:
        self._addresses = _Buckets(per_address)
        self._openids = _Buckets(per_openid)
        self._homes: dict[str, str] = {}  # openid: the prefix that it was last let in from

    def apply(self, per_address: int, per_openid: int) -> None:
        """Take other limits; failures up to now count on."""
        self._addresses.burst = float(per_address)
        self._openids.burst = float(per_openid)

    def begin(self, ip: str, openid: str, now: float) -> Attempt | None:
        """Return an attempt to authenticate, None where too many have failed.

        Args:
            ip: The client's address.
            openid: What the client says it is, empty where it leaves that to its token.
            now: Loop time.
        """
        prefix = prefix_of(ip)
        is_known = is_valid_text(openid, MAX_OPENID_BYTES) and self._homes.get(openid) != prefix
        key = openid if is_known else ""
        if not self._addresses.allows(prefix, now) or not self._openids.allows(key, now):
            return None
        return Attempt(
            self, self._addresses.begin(prefix, now), self._openids.begin(key, now), prefix
        )

    def let_in(self, openid: str, prefix: str) -> None:
        """Remember where an openid was let in from."""
        self._homes.pop(openid, None)
        self._homes[openid] = prefix
        if len(self._homes) > MAX_KEYS:
            del self._homes[next(iter(self._homes))]


class Attempt:
    """One authentication, from FailureLimit.begin() to end()."""

    __slots__ = ("_address", "_limit", "_openid", "_prefix")

    def __init__(
        self, limit: FailureLimit, address: _Bucket | None, openid: _Bucket | None, prefix: str
    ) -> None:
        self._limit = limit
        self._address = address
        self._openid = openid
        self._prefix = prefix

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
            self._limit.let_in(openid, self._prefix)


class _Bucket:
    """What a key has left, and its attempts under way."""

    __slots__ = ("at", "buckets", "key", "left", "under_way")

    def __init__(self, buckets: _Buckets, key: str, now: float) -> None:
        self.buckets = buckets
        self.key = key
        self.left = buckets.burst
        self.at = now
        self.under_way = 0

    def refill(self, now: float) -> None:
        """Give back what the time since the last look is worth."""
        self.left = min(self.buckets.burst, self.left + RATE * (now - self.at))
        self.at = now

    def end(self, now: float, *, is_failure: bool) -> None:
        """Leave one attempt behind."""
        self.refill(now)
        self.under_way -= 1
        if is_failure:
            self.left = max(0.0, self.left - 1.0)
            self.buckets.keep(self)
        elif not self.under_way and self.left >= self.buckets.burst:
            self.buckets.drop(self)


class _Buckets:
    """Buckets by their key, those that failed last at the end; an empty key has none."""

    def __init__(self, burst: int) -> None:
        self.burst = float(burst)
        self._buckets: dict[str, _Bucket] = {}

    def allows(self, key: str, now: float) -> bool:
        """Return whether another attempt may begin."""
        bucket = self._buckets.get(key)
        if bucket is None:
            return True
        bucket.refill(now)
        return bucket.left >= self.burst or bucket.left - bucket.under_way >= 1.0

    def begin(self, key: str, now: float) -> _Bucket | None:
        """Count an attempt, and return its bucket."""
        if not key or not self.burst:
            return None
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = _Bucket(self, key, now)
            self._keep(bucket)
        bucket.under_way += 1
        return bucket

    def keep(self, bucket: _Bucket) -> None:
        """Move a bucket to the end."""
        self._buckets.pop(bucket.key, None)
        self._keep(bucket)

    def drop(self, bucket: _Bucket) -> None:
        """Forget a bucket that is full."""
        if self._buckets.get(bucket.key) is bucket:
            del self._buckets[bucket.key]

    def _keep(self, bucket: _Bucket) -> None:
        self._buckets[bucket.key] = bucket
        if len(self._buckets) > MAX_KEYS:
            del self._buckets[next(iter(self._buckets))]


def prefix_of(ip: str) -> str:
    """Return the addresses that count as one client's: an IPv4 address, or an IPv6 /64."""
    address = ipaddress.ip_address(ip)
    if address.version == 4:
        return ip
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
