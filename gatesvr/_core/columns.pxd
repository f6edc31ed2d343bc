"""Messages by columns, as another process takes them; times as ms still to go."""
from libc.math cimport ceil, fmax
from libc.stdint cimport int64_t

from gatesvr._core.entry cimport Entry


cdef inline int64_t time_left(double expires_at, double now) noexcept:
    """Return the ms until a message expires, rounded up: 0 for never, -1 where it should have."""
    cdef double left
    if expires_at <= 0:
        return 0
    # A thousandth is the noise of doubles, not time.
    left = ceil((expires_at - now) * 1000 - 1e-3)
    return -1 if left <= 0 else <int64_t>left if left < 9e15 else <int64_t>9e15


cdef inline dict columns_of(Entry *entries, size_t first, size_t mask, size_t count, double now):
    """Return the messages among count entries from entries[first & mask] on, by columns."""
    cdef list msg_ids = []
    cdef list flags = []
    cdef list left_ms = []
    cdef list bodies = []
    cdef Entry *entry
    cdef size_t n
    for n in range(count):
        entry = &entries[(first + n) & mask]
        if entry.body != NULL:
            msg_ids.append(entry.msg_id)
            flags.append(entry.flags)
            left_ms.append(time_left(entry.expires_at, now))
            bodies.append(<object>entry.body)
    return {"msg_ids": msg_ids, "flags": flags, "left_ms": left_ms, "bodies": bodies}


cdef inline list rows_of(object columns, double now):
    """Return messages given by columns as append() and fill() take them."""
    cdef list rows = []
    cdef list msg_ids = list(columns.msg_ids)
    cdef list flags = list(columns.flags)
    cdef list left_ms = list(columns.left_ms)
    cdef list bodies = list(columns.bodies)
    cdef Py_ssize_t count = len(bodies)
    cdef Py_ssize_t n
    cdef inline int64_t left
    if len(msg_ids) != count or len(flags) != count or len(left_ms) != count:
        raise ValueError("the columns of messages differ in length")
    for n in range(count):
        left = left_ms[n]
        # At the start of a clock, a message that should have expired still has to.
        rows.append(
            (msg_ids[n], bodies[n], flags[n], fmax(1e-9, now + left / 1000.0) if left else 0.0)
        )
    return rows
