"""The map of gatesvr._core.limits: token buckets, one alone or a table of them."""
from libc.stdint cimport uint64_t

cdef enum:
    WAYS = 8  # buckets that a key may lie in
    MAX_KEYS = 1 << 24

# A bucket is the time at which it is full again; one that is full need not be kept.
cdef struct Slot:
    uint64_t mark  # of the key
    double full_at  # seconds


cdef class TokenBucket:
    cdef double _interval  # seconds until the next token
    cdef double _depth  # seconds until an empty bucket is full
    cdef double _full_at  # seconds


cdef class TokenBuckets:
    cdef double _interval
    cdef double _depth
    cdef uint64_t _seed
    cdef size_t _sets  # a power of two
    cdef Slot *_slots  # owned; _sets times WAYS of them
    cdef readonly uint64_t evictions
    cdef uint64_t mark_of(self, object key) except? 0
