"""A queued message: its memory layout, reading it from a tuple, and releasing its body."""
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from gatesvr._core.wire cimport MAX_HEAD_BYTES

cdef extern from "Python.h":
    # PyObject * instead of object: reading a message then changes no reference count.
    PyObject *PyTuple_GET_ITEM(PyObject *value, Py_ssize_t index) noexcept
    Py_ssize_t PyTuple_GET_SIZE(PyObject *value) noexcept
    bint PyTuple_Check(PyObject *value) noexcept
    bint PyBytes_CheckExact(PyObject *value) noexcept
    Py_ssize_t PyBytes_GET_SIZE(PyObject *value) noexcept
    const char *bytes_data "PyBytes_AS_STRING"(PyObject *value) noexcept
    bint PyFloat_Check(PyObject *value) noexcept
    double PyFloat_AS_DOUBLE(PyObject *value) noexcept
    bint PyLong_Check(PyObject *value) noexcept
    long long PyLong_AsLongLongAndOverflow(PyObject *value, int *overflow) noexcept
    void Py_INCREF(PyObject *value) noexcept
    void Py_DECREF(PyObject *value) noexcept
    object PySequence_Fast(object value, const char *message)
    Py_ssize_t PySequence_Fast_GET_SIZE(object value) noexcept
    PyObject **PySequence_Fast_ITEMS(object value) noexcept

cdef enum:  # flags
    FLAG_KEEP = 1  # answers and bundles: never expire and are never dropped
    FLAG_BULK = 2  # broadcasts and multicasts: dropped first

cdef enum:
    MAX_BODY_BYTES = 0x7FFFFFFF - MAX_HEAD_BYTES  # so that frame sizes fit in every type used

cdef enum:  # faults of a message
    GOOD
    NOT_A_TUPLE
    BAD_MSG_ID
    MSG_ID_RANGE
    BAD_BODY
    BODY_TOO_LARGE
    BAD_FLAGS
    BAD_EXPIRES_AT

cdef struct Entry:  # 32 bytes
    uint64_t seq  # ascending; of a mark: the last seq it stands for
    PyObject *body  # exact bytes, one reference owned by the entry; NULL: a mark
    double expires_at  # caller's seconds; 0: never (always 0 with KEEP)
    uint32_t msg_id  # 0 of a notify
    uint8_t flags  # FLAG_*; a message without KEEP is *plain*
    uint8_t reason  # LostReason of a mark

cdef struct Sums:  # over some messages
    Py_ssize_t bytes  # of bodies
    Py_ssize_t plain  # messages without KEEP, BULK ones included
    Py_ssize_t plain_bytes  # of their bodies
    Py_ssize_t bulk  # plain messages with BULK
    Py_ssize_t bulk_bytes  # of their bodies
    double next_expiry  # lowest expires_at of the plain ones; inf: none expires

cdef struct Bundle:  # one block: this head, then count entries without seq
    Sums sums
    Py_ssize_t count


cdef inline void clear_sums(Sums *sums) noexcept:
    sums.bytes = sums.plain = sums.plain_bytes = sums.bulk = sums.bulk_bytes = 0
    sums.next_expiry = INFINITY


cdef inline void set_entry(
    Entry *entry, uint64_t seq, uint32_t msg_id, PyObject *body, uint8_t flags, double expires_at,
    Sums *sums,
) noexcept:
    """Make entry a message with its own reference to body, and add it to sums."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(body)
    Py_INCREF(body)
    entry.seq = seq
    entry.body = body
    entry.msg_id = msg_id
    entry.flags = flags
    entry.reason = 0
    entry.expires_at = 0
    sums.bytes += size
    if not flags & FLAG_KEEP:
        sums.plain += 1
        sums.plain_bytes += size
        if flags & FLAG_BULK:
            sums.bulk += 1
            sums.bulk_bytes += size
        if expires_at > 0:
            entry.expires_at = expires_at
            if expires_at < sums.next_expiry:
                sums.next_expiry = expires_at


cdef inline int read_message(
    PyObject *message, Entry *entry, uint64_t seq, uint8_t flags, Sums *sums
) noexcept:
    """Fill entry from (msg_id, body[, flags[, expires_at]]); return GOOD or the fault.

    Raises nothing: raising allocates, and a garbage collection may run arbitrary code.
    """
    cdef PyObject *item
    cdef PyObject *body
    cdef Py_ssize_t parts
    cdef long long msg_id
    cdef long long number
    cdef double expires_at = 0
    cdef int overflow = 0
    if not PyTuple_Check(message):
        return NOT_A_TUPLE
    parts = PyTuple_GET_SIZE(message)
    if parts < 2 or parts > 4:
        return NOT_A_TUPLE
    item = PyTuple_GET_ITEM(message, 0)
    if not PyLong_Check(item):
        return BAD_MSG_ID
    msg_id = PyLong_AsLongLongAndOverflow(item, &overflow)
    if overflow or msg_id < 0 or msg_id > 0xFFFFFFFF:
        return MSG_ID_RANGE
    body = PyTuple_GET_ITEM(message, 1)
    if not PyBytes_CheckExact(body):
        return BAD_BODY
    if PyBytes_GET_SIZE(body) > MAX_BODY_BYTES:
        return BODY_TOO_LARGE
    if parts > 2:
        item = PyTuple_GET_ITEM(message, 2)
        if not PyLong_Check(item):
            return BAD_FLAGS
        number = PyLong_AsLongLongAndOverflow(item, &overflow)
        if overflow or number & ~<long long>(FLAG_KEEP | FLAG_BULK):
            return BAD_FLAGS
        flags = <uint8_t>number
        if parts > 3:
            item = PyTuple_GET_ITEM(message, 3)
            if PyFloat_Check(item):
                expires_at = PyFloat_AS_DOUBLE(item)
            elif PyLong_Check(item):
                expires_at = <double>PyLong_AsLongLongAndOverflow(item, &overflow)
                if overflow:
                    expires_at = INFINITY if overflow > 0 else 0
            else:
                return BAD_EXPIRES_AT
    set_entry(entry, seq, <uint32_t>msg_id, body, flags, expires_at, sums)
    return GOOD


cdef inline int raise_wrong(int wrong) except -1:
    if wrong == NOT_A_TUPLE:
        raise TypeError("a message is a tuple (msg_id, body[, flags[, expires_at]])")
    if wrong == BAD_MSG_ID:
        raise TypeError("msg_id must be an int")
    if wrong == MSG_ID_RANGE:
        raise OverflowError("msg_id must be from 0 to 4294967295")
    if wrong == BAD_BODY:
        raise TypeError("body must be bytes")
    if wrong == BODY_TOO_LARGE:
        raise OverflowError("body is too large for a frame")
    if wrong == BAD_FLAGS:
        raise ValueError("flags must be KEEP, BULK, both or 0")
    raise TypeError("expires_at must be a float or an int")


cdef inline void let_go(Entry *entries, size_t first, size_t mask, size_t count) noexcept:
    """Release the references of count entries from entries[first & mask] on."""
    cdef size_t n
    for n in range(count):
        if entries[(first + n) & mask].body != NULL:
            Py_DECREF(entries[(first + n) & mask].body)


cdef inline int read_messages(
    object fast, Entry *entries, size_t first, size_t mask, uint64_t seq, uint8_t flags,
    Sums *sums,
) except -1:
    """Read the result of PySequence_Fast into entries[(first + n) & mask]; all of it, or raise."""
    cdef PyObject **items = PySequence_Fast_ITEMS(fast)
    cdef Py_ssize_t count = PySequence_Fast_GET_SIZE(fast)
    cdef Py_ssize_t n
    cdef int wrong
    clear_sums(sums)
    for n in range(count):
        wrong = read_message(items[n], &entries[(first + n) & mask], seq + n, flags, sums)
        if wrong:
            let_go(entries, first, mask, n)
            raise_wrong(wrong)
    return 0


cdef inline Bundle *new_bundle(Py_ssize_t count) noexcept:
    return <Bundle *>PyMem_Malloc(sizeof(Bundle) + count * sizeof(Entry))


cdef inline Entry *entries_of(Bundle *bundle) noexcept:
    return <Entry *>(bundle + 1)


cdef inline void free_bundle(Bundle *bundle) noexcept:
    """Free a bundle and the references of its entries; NULL is allowed."""
    if bundle != NULL:
        let_go(entries_of(bundle), 0, <size_t>-1, bundle.count)
        PyMem_Free(bundle)
