"""The map of gatesvr._core.histogram: how long things took.

A bucket holds a range of durations. Each doubling of a microsecond has PARTS of them, equally wide,
so a bucket's width is at most 1 / PARTS of its lower edge, 3.2 %.
"""
from libc.stdint cimport uint64_t

cdef enum:
    PART_BITS = 5
    PARTS = 1 << PART_BITS  # buckets of each doubling
    BUCKETS = 1014  # from 1 us to that of 1 h
    MAX_PENDING = 1024  # answers of a RequestTimer that wait for the flush


cdef class Histogram:
    cdef uint64_t _count
    cdef double _sum  # seconds
    cdef uint64_t _buckets[BUCKETS]

    cdef void add(self, double seconds, uint64_t times) noexcept


cdef class HistogramSnapshot:
    cdef readonly uint64_t count
    cdef readonly double sum  # seconds
    cdef uint64_t _buckets[BUCKETS]


# An answer that is ready and not yet sent.
cdef struct Pending:
    double asked_at  # seconds, as the next
    double ready_at


cdef class RequestTimer:
    cdef readonly Histogram queue_wait
    cdef readonly Histogram send
    cdef readonly Histogram request
    cdef readonly Py_ssize_t pending  # answers that are ready and not yet sent
    cdef Pending _pending[MAX_PENDING]

    cdef void _flush(self, double now) noexcept
