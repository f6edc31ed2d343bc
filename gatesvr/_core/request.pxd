"""The map of gatesvr._core.request: request heads of one connection, as header blocks."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from gatesvr._core.buffer cimport Buffer
from gatesvr._core.hpack cimport HpackEncoder

cdef enum:
    REQUEST_TABLE_BYTES = 4096  # of the HPACK table, the default
    MAX_PATHS = 1024  # paths whose block is kept
    MAX_TIMEOUT = 99_999_999  # of either unit: eight digits
    MAX_TIMEOUT_FIELD = 64  # bytes; an encoded grpc-timeout takes 24 at most


# The fields that every request with one path has.
cdef class _RequestHead:
    cdef list fields
    cdef bytes block  # None: to be encoded
    cdef uint64_t inserted  # the encoder's, when block was encoded: while it stays, block is good


cdef class RequestEncoder:
    cdef HpackEncoder _encoder
    cdef bint _is_resized  # the next block starts with size updates
    cdef list _pseudo  # fields of every request, before :path
    cdef list _common  # and behind it
    cdef dict _heads  # path -> _RequestHead
    cdef bytes _timeout_name  # of grpc-timeout, encoded; None: not in the table
    cdef uint64_t _timeout_inserted  # the encoder's, when it was encoded

    # Writes HEADERS, and CONTINUATIONs above max_frame bytes; nothing after a ValueError.
    cdef int put(
        self, Buffer *out, uint32_t max_frame, uint32_t stream_id, str path, int64_t timeout_ms,
        object metadata
    ) except -1
    cdef int resize(self, uint32_t max_table_bytes) except -1
    cdef bytes _block_of(self, str path)
    cdef bytes _encode(self, str path, _RequestHead head)
    cdef size_t _put_timeout(self, unsigned char *out, int64_t timeout_ms) except 0
