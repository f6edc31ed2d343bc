"""Token buckets: how often something may happen, to one or to each of many.

A bucket holds ``burst`` tokens and gains ``rate`` of them a second. It is kept as the time at which
it is full again, so that time alone refills it. The module knows no clock: ``now`` is an argument.
"""
cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport INFINITY, fmax, fmin
from libc.stdint cimport uint64_t


cdef inline int check(double rate, double burst) except -1:
    if not 0 < rate < INFINITY or not 1 <= burst < INFINITY:
        raise ValueError("rate is not above 0, or burst is not 1 or more")
    return 0


cdef inline double wait_for(double full_at, double interval, double depth, double now) noexcept:
    """Return the seconds until there is a token, 0 where there is one."""
    cdef double after = fmax(full_at, now) + interval
    # Half an interval in a million, for sums of doubles that should be equal.
    return after - now - depth if after - now > depth + interval * 5e-7 else 0


cdef inline double take_from(
    double *full_at, double interval, double depth, double now
) noexcept:
    """Take a token; return 0, or the seconds until there is one."""
    cdef double wait = wait_for(full_at[0], interval, depth, now)
    if wait == 0:
        full_at[0] = fmax(full_at[0], now) + interval
    return wait


@cython.final
@cython.auto_pickle(False)
cdef class TokenBucket:
    """One bucket, full at first.

    Args:
        rate: Tokens a second.
        burst: Tokens at most, 1 or more.

    Raises:
        ValueError: One of them is out of range.
    """

    def __cinit__(self, double rate, double burst):
        check(rate, burst)
        self._interval = 1 / rate
        self._depth = burst / rate
        self._full_at = -INFINITY

    def take(self, double now):
        """Take a token; return 0.0, or the seconds until there is one."""
        return take_from(&self._full_at, self._interval, self._depth, now)

    def wait(self, double now):
        """Return the seconds until there is a token, 0.0 where there is one; take none."""
        return wait_for(self._full_at, self._interval, self._depth, now)

    def full_in(self, double now):
        """Return the seconds until the bucket is full, if nothing is taken."""
        return fmax(0.0, self._full_at - now)

    def fill_in(self, double seconds, double now):
        """Be full in so many seconds, at most those that an empty bucket takes."""
        self._full_at = now + fmin(fmax(seconds, 0.0), self._depth)


@cython.final
@cython.auto_pickle(False)
cdef class TokenBuckets:
    """A bucket for each key, full at first, in memory that never grows: 16 bytes a key.

    Keys are told apart by their hash, so they are of one type. A key has 8 places. Where all are
    taken, the bucket that is nearest to full makes room, and the newcomer goes on at its level. So
    whoever shows up under ever new keys pushes out buckets as full as its own, never one that it
    has emptied, and gains no tokens by it.

    Args:
        rate: Tokens a second.
        burst: Tokens at most, 1 or more.
        max_keys: Buckets kept, a power of two from 8 up.
        seed: Any 64 random bits: nobody outside can tell which keys share places.

    Attributes:
        evictions: Buckets that made room before they were full.

    Raises:
        ValueError: An argument is out of range.
    """

    def __cinit__(self, double rate, double burst, size_t max_keys, uint64_t seed):
        cdef size_t index
        self._slots = NULL
        check(rate, burst)
        if max_keys < WAYS or max_keys > MAX_KEYS or max_keys & (max_keys - 1):
            raise ValueError("max_keys is not a power of two from 8 to 16777216")
        self._interval = 1 / rate
        self._depth = burst / rate
        self._seed = seed
        self._sets = max_keys // WAYS
        self._slots = <Slot *>PyMem_Malloc(max_keys * sizeof(Slot))
        if self._slots == NULL:
            raise MemoryError
        for index in range(max_keys):
            self._slots[index].mark = 0
            self._slots[index].full_at = -INFINITY

    def __dealloc__(self):
        PyMem_Free(self._slots)

    def take(self, object key, double now):
        """Take a token from the key's bucket; return 0.0, or the seconds until there is one.

        Complexity: O(1); no memory is allocated.
        """
        cdef uint64_t mark = self.mark_of(key)
        cdef Slot *place = self._slots + (mark & (self._sets - 1)) * WAYS
        cdef Slot *fullest = place
        cdef size_t way
        for way in range(WAYS):
            if place[way].mark == mark:
                return take_from(&place[way].full_at, self._interval, self._depth, now)
            if place[way].full_at < fullest.full_at:
                fullest = place + way
        self.evictions += fullest.full_at > now
        fullest.mark = mark
        return take_from(&fullest.full_at, self._interval, self._depth, now)

    def wait(self, object key, double now):
        """Return the seconds until the key's bucket has a token, 0.0 where it has; take none.

        Complexity: O(1).
        """
        cdef uint64_t mark = self.mark_of(key)
        cdef Slot *place = self._slots + (mark & (self._sets - 1)) * WAYS
        cdef double full_at = place.full_at
        cdef size_t way
        for way in range(WAYS):
            if place[way].mark == mark:
                full_at = place[way].full_at
                break
            full_at = fmin(full_at, place[way].full_at)
        return wait_for(full_at, self._interval, self._depth, now)

    cdef uint64_t mark_of(self, object key) except? 0:
        cdef uint64_t mark = (<uint64_t>hash(key) ^ self._seed) * <uint64_t>0x9E3779B97F4A7C15
        return mark ^ mark >> 32
