"""The map of gatesvr._core.hpack: fields of HTTP/2 to bytes and back (RFC 7541)."""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:  # verdicts of decode_block
    HPACK_OK = 0
    HPACK_CORRUPT = 1  # the connection ends with COMPRESSION_ERROR; the table is lost
    HPACK_TOO_LARGE = 2  # the list is above max_list_bytes; the table is as the peer has it

cdef enum:
    ENTRY_BYTES = 32  # what an entry counts beside its name and value (RFC 7541 4.1)
    MAX_TABLE_BYTES = 1 << 20  # of a table, as an argument

# Takes one field. The bytes are valid during the call. Returns 0, or -1 with an exception.
ctypedef int (*on_field)(
    void *arg,
    const unsigned char *name, Py_ssize_t name_size,
    const unsigned char *value, Py_ssize_t value_size,
) except -1

# A name and the value behind it, at a place that counts all bytes that the table ever held.
cdef struct Entry:
    uint64_t at
    uint32_t name_size
    uint32_t value_size


# One name and value; they lie in the block, in the decoder, or in the static table.
cdef struct Field:
    const unsigned char *name
    const unsigned char *value
    Py_ssize_t name_size
    Py_ssize_t value_size


cdef class HpackDecoder:
    cdef uint64_t _max_list_bytes
    cdef uint32_t _limit_bytes  # the highest that a size update may say
    # the dynamic table; its newest entry has the lowest index
    cdef uint32_t _max_bytes  # as the last size update said
    cdef uint32_t _table_bytes  # now, by RFC 7541 4.1
    cdef Entry *_ring  # owned; a power of two of them
    cdef uint32_t _ring_mask
    cdef uint32_t _oldest  # runs on; under the mask it is the place in the ring
    cdef uint32_t _count
    # the bytes of its entries, one behind the other
    cdef unsigned char *_bytes  # owned; two halves, of which one is in use
    cdef unsigned char *_half  # the one in use
    cdef uint32_t _half_bytes  # size of each
    cdef uint64_t _half_at  # place of its first byte
    cdef uint64_t _end_at  # place behind the newest entry
    # the strings of one field, out of Huffman's code
    cdef unsigned char *_text  # owned
    cdef Py_ssize_t _text_bytes

    # Hands each field to the callback; returns a verdict. No Python object is made. After an
    # exception the decoder is of no more use.
    cdef int decode_block(
        self, const unsigned char *data, Py_ssize_t size, on_field callback, void *arg
    ) except -1
    cdef int reserve_text(self, Py_ssize_t size) except -1
    cdef bint find(self, uint64_t index, Field *field) noexcept
    cdef bint read_literal(
        self, const unsigned char **at, const unsigned char *end, unsigned char mask, Field *field
    ) noexcept
    cdef void evict(self, uint32_t max_bytes) noexcept
    cdef void insert(self, Field *field) noexcept


cdef class HpackEncoder:
    cdef readonly uint64_t inserted  # while it stays, so does what encode() returns
    cdef uint32_t _limit_bytes  # ours, whatever the peer allows
    cdef uint32_t _max_bytes  # the peer's, at most ours
    cdef uint32_t _lowest_bytes  # of _max_bytes since the last block
    cdef bint _is_resized  # the next block starts with size updates
    # the dynamic table
    cdef uint32_t _table_bytes  # now, by RFC 7541 4.1
    cdef uint64_t _count  # entries ever inserted; the first is number 1
    cdef object _entries  # deque of fields, oldest first
    cdef dict _fields  # field -> number
    cdef dict _names  # name -> number of the newest entry with it

    cpdef bytes encode(self, object fields, bint remember=*)
    cpdef set_max_table_bytes(self, uint32_t size)
    cdef uint64_t index_of(self, tuple field) except? 0
    cdef uint64_t index_of_name(self, bytes name) except? 0
    cdef bint insert(self, tuple field, bytes name, Py_ssize_t size) except -1
    cdef int evict(self) except -1
