"""The map of OrderedQueue: its fields, their units and owners (DESIGN D5, D6).

The *slots* hold the bundles filled before their turn. The *ring* holds every message that has a seq
and is not acked. The send position divides the ring: everything before it was taken.
"""
from libc.stdint cimport uint64_t

from gatesvr._core.entry cimport FLAG_BULK, FLAG_KEEP
from gatesvr._core.ring cimport Ring
from gatesvr._core.slots cimport Slots

cpdef enum:  # flags of a message, for Python
    KEEP = FLAG_KEEP
    BULK = FLAG_BULK

cdef enum:  # LostReason of PROTOCOL 1
    EXPIRED = 1
    OVERFLOW = 2
    CONFLATED = 6


cdef class OrderedQueue:
    # --- settings, changed by the session
    cdef public str session_id
    cdef public Py_ssize_t max_queue_size  # messages
    cdef public Py_ssize_t max_queue_bytes  # bytes of bodies
    cdef public Py_ssize_t reserved  # messages kept free for answers to come
    cdef public bint can_skip  # the peer understands SKIP

    # --- messages
    cdef Ring _ring  # released, not acked; owns next_seq and acked_seq
    cdef Slots _slots  # open, or filled and waiting

    # --- send position
    cdef uint64_t _send_seq  # the next seq that take() gives out
    cdef size_t _send  # index of the first entry of the ring with seq >= _send_seq
    cdef uint64_t _sent_seq  # the highest seq that take() has given out

    # --- age of the oldest message, as seen by oldest_age()
    cdef uint64_t _oldest_seq  # the last one seen, 0 for none
    cdef double _oldest_at  # when it was first seen, caller's seconds

    # --- end and statistics
    cdef bint _stopped
    cdef uint64_t _appended  # messages that came by append
    cdef uint64_t _filled  # slots filled
    cdef uint64_t _released  # messages that came out of slots
    cdef uint64_t _taken  # messages given out by take, repeats included
    cdef uint64_t _taken_bytes  # bytes of all frames given out
    cdef uint64_t _skips  # SKIP frames given out
    cdef uint64_t _replayed  # those of _taken that were given out before
    cdef uint64_t _acked  # messages that left by an ack
    cdef uint64_t _expired  # messages that became marks by TTL
    cdef uint64_t _dropped  # messages that became marks by drop_oldest
    cdef uint64_t _conflated  # messages that became marks by conflate
    cdef uint64_t _refused  # messages that append refused

    cdef Py_ssize_t _room(self) noexcept
    cdef Py_ssize_t _room_bytes(self) noexcept
    cdef int _refuse(self, Py_ssize_t count) except -1
    cdef int _fill_early(self, uint64_t slot, object fast) except -1
    cdef Py_ssize_t _release_waiting(self) noexcept
    cdef int _restore_ring(self, object state, double now) except -1
    cdef int _restore_slots(self, object state, double now) except -1
    cdef int _restore_sums(self, object sums) except -1
