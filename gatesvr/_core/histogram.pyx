"""Histograms of durations, cheap enough to record each request.

A value's bucket is read off the bits of the double that holds it in microseconds: its exponent and
the first PART_BITS of its mantissa. The module knows no clock: times are arguments.
"""
cimport cython
from libc.math cimport ldexp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy, memset

cdef enum:
    MANTISSA_BITS = 52
    EXPONENT_BIAS = 1023

cdef double MIN_US = 1.0
cdef double MAX_US = 3.6e9


# A bucket that holds something, as bytes; the bytes begin with one whose count is the sum's bits.
cdef packed struct Packed:
    uint16_t bucket
    uint64_t count


cdef inline size_t bucket_of(double us) noexcept:
    """Return the bucket of a duration from MIN_US to MAX_US."""
    cdef uint64_t bits
    memcpy(&bits, &us, sizeof(bits))
    return (bits >> (MANTISSA_BITS - PART_BITS)) - (<uint64_t>EXPONENT_BIAS << PART_BITS)


cdef inline double upper_edge(size_t bucket) noexcept:
    """Return the upper edge of a bucket in seconds."""
    cdef size_t above = bucket + 1
    cdef double part = 1 + <double>(above & (PARTS - 1)) / PARTS
    return ldexp(part, <int>(above >> PART_BITS)) / 1e6


@cython.final
@cython.auto_pickle(False)
cdef class Histogram:
    """Counts durations from 1 us to 1 h in buckets at most 3.2 % wide.

    Shorter and longer ones, and what is no number, count as the nearest end.
    """

    def __cinit__(self):
        memset(self._buckets, 0, sizeof(self._buckets))

    cdef void add(self, double seconds, uint64_t times) noexcept:
        cdef double us = seconds * 1e6
        if not us > MIN_US:  # NaN, too
            us = MIN_US
        elif us > MAX_US:
            us = MAX_US
        self._buckets[bucket_of(us)] += times
        self._count += times
        self._sum += us * <double>times / 1e6

    def record(self, double seconds):
        """Count a duration in seconds. Complexity: O(1); no memory is allocated."""
        self.add(seconds, 1)

    def record_many(self, double seconds, uint64_t times):
        """Count a duration in seconds as many times."""
        self.add(seconds, times)

    @property
    def count(self):
        """The durations counted."""
        return self._count

    def snapshot(self):
        """Return what was counted until now."""
        cdef HistogramSnapshot taken = HistogramSnapshot.__new__(HistogramSnapshot)
        taken.count = self._count
        taken.sum = self._sum
        memcpy(taken._buckets, self._buckets, sizeof(self._buckets))
        return taken


@cython.final
@cython.auto_pickle(False)
cdef class HistogramSnapshot:
    """What a Histogram had counted at one moment; it does not change. Without a histogram: nothing.

    The difference of two snapshots of one histogram, the later one first, is what was counted
    between them.

    Attributes:
        count: The durations counted.
        sum: Their sum in seconds.
    """

    def __cinit__(self):
        memset(self._buckets, 0, sizeof(self._buckets))

    def __sub__(self, HistogramSnapshot earlier not None):
        """Return what was counted between the two.

        Raises:
            ValueError: The other one is not an earlier one of the same histogram.
        """
        cdef HistogramSnapshot between = HistogramSnapshot.__new__(HistogramSnapshot)
        cdef size_t bucket
        for bucket in range(BUCKETS):
            if self._buckets[bucket] < earlier._buckets[bucket]:
                raise ValueError("not an earlier snapshot of this histogram")
            between._buckets[bucket] = self._buckets[bucket] - earlier._buckets[bucket]
        between.count = self.count - earlier.count
        between.sum = max(0.0, self.sum - earlier.sum)
        return between

    def __add__(self, HistogramSnapshot other not None):
        """Return what the two have counted together, of two histograms."""
        cdef HistogramSnapshot both = HistogramSnapshot.__new__(HistogramSnapshot)
        cdef size_t bucket
        for bucket in range(BUCKETS):
            both._buckets[bucket] = self._buckets[bucket] + other._buckets[bucket]
        both.count = self.count + other.count
        both.sum = self.sum + other.sum
        return both

    def to_bytes(self):
        """Return it as bytes, for another process of this machine: ten for each bucket in use."""
        cdef Packed entry
        cdef size_t bucket
        cdef Py_ssize_t used = 1
        for bucket in range(BUCKETS):
            used += self._buckets[bucket] != 0
        cdef bytes packed = PyBytes_FromStringAndSize(NULL, used * <Py_ssize_t>sizeof(Packed))
        cdef char* place = PyBytes_AS_STRING(packed)
        entry.bucket = BUCKETS
        memcpy(&entry.count, &self.sum, sizeof(entry.count))
        memcpy(place, &entry, sizeof(Packed))
        for bucket in range(BUCKETS):
            if self._buckets[bucket]:
                place += sizeof(Packed)
                entry.bucket = <uint16_t>bucket
                entry.count = self._buckets[bucket]
                memcpy(place, &entry, sizeof(Packed))
        return packed

    @staticmethod
    def from_bytes(bytes packed not None):
        """Return what to_bytes() has made.

        Raises:
            ValueError: The bytes are something else.
        """
        cdef HistogramSnapshot read = HistogramSnapshot.__new__(HistogramSnapshot)
        cdef Packed entry
        cdef Py_ssize_t size = <Py_ssize_t>sizeof(Packed), at
        cdef const char* place = PyBytes_AS_STRING(packed)
        if not len(packed) or len(packed) % size:
            raise ValueError("not the bytes of a histogram")
        memcpy(&entry, place, sizeof(Packed))
        if entry.bucket != BUCKETS:
            raise ValueError("not the bytes of a histogram")
        memcpy(&read.sum, &entry.count, sizeof(read.sum))
        for at in range(1, len(packed) // size):
            memcpy(&entry, place + at * size, sizeof(Packed))
            if entry.bucket >= BUCKETS:
                raise ValueError("not the bytes of a histogram")
            read._buckets[entry.bucket] += entry.count
            read.count += entry.count
        return read

    @property
    def max(self):
        """The longest duration in seconds, at most 3.2 % too long; 0.0 for none."""
        return self.quantile(1.0)

    def quantile(self, double q):
        """Return the duration in seconds that a share q of all are not above; 0.0 for none.

        It is the upper edge of its bucket: never too short, and at most 3.2 % too long.

        Args:
            q: 0.99 for p99; below 0 counts as 0, above 1 as 1.
        """
        cdef uint64_t seen = 0
        cdef double wanted = q * <double>self.count
        cdef size_t bucket, last = 0
        for bucket in range(BUCKETS):
            if self._buckets[bucket]:
                seen += self._buckets[bucket]
                last = bucket
                if <double>seen >= wanted:
                    break
        return upper_edge(last) if seen else 0.0

    def buckets(self):
        """Return (upper edge in seconds, count) of each bucket that holds something, rising."""
        cdef size_t bucket
        cdef list found = []
        for bucket in range(BUCKETS):
            if self._buckets[bucket]:
                found.append((upper_edge(bucket), self._buckets[bucket]))
        return found

    def cumulative(self, bounds):
        """Return for each bound how many durations are not above it.

        Args:
            bounds: Seconds, rising. A bound that is no edge counts as the edge below it.
        """
        cdef uint64_t seen = 0
        cdef size_t bucket = 0
        cdef double bound
        cdef list counts = []
        for bound in bounds:
            bound *= 1 + 1e-9  # an edge may have been computed in another way
            while bucket < BUCKETS and upper_edge(bucket) <= bound:
                seen += self._buckets[bucket]
                bucket += 1
            counts.append(seen)
        return counts


@cython.final
@cython.auto_pickle(False)
cdef class RequestTimer:
    """Times the stages of requests, at one call a request and one a flush.

    Attributes:
        queue_wait: From the reading of a request until its upstream is called.
        send: From an answer's being ready until the end of the flush that follows.
        request: From the reading of a request until the end of that flush.
        pending: Answers that are ready and not yet flushed.
    """

    def __cinit__(self):
        self.queue_wait = Histogram()
        self.send = Histogram()
        self.request = Histogram()

    def ended(
        self,
        Histogram upstream not None,
        double asked_at,
        double called_at,
        double now,
        bint is_sent,
    ):
        """Take in a request whose answer, or ERROR, has just become ready.

        Args:
            upstream: The histogram of its service.
            asked_at: When it was read, seconds.
            called_at: When its upstream was called.
            now: The time.
            is_sent: Whether a flush will send it; else its client is not there.
        """
        self.queue_wait.add(called_at - asked_at, 1)
        upstream.add(now - called_at, 1)
        if not is_sent:
            self.request.add(now - asked_at, 1)
            return
        if self.pending == MAX_PENDING:
            self._flush(now)
        self._pending[self.pending].asked_at = asked_at
        self._pending[self.pending].ready_at = now
        self.pending += 1

    def flushed(self, double now):
        """Record that what was ready has been sent."""
        self._flush(now)

    cdef void _flush(self, double now) noexcept:
        cdef Py_ssize_t i
        for i in range(self.pending):
            self.send.add(now - self._pending[i].ready_at, 1)
            self.request.add(now - self._pending[i].asked_at, 1)
        self.pending = 0
