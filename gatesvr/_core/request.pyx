"""Request heads of one connection: what gRPC sends before a message, as HTTP/2 header blocks.

The fields of a path are the same in each request. Once all of them are in the HPACK table, their
block does not change, and it is kept. Behind it stand the deadline, whose name is in the table, and
metadata, which never goes into it: it changes, and the table has no room to lose.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from gatesvr._core.buffer cimport Buffer, extend
from gatesvr._core.frame cimport (
    CONTINUATION_FRAME, END_HEADERS, HEAD_BYTES, HEADERS_FRAME, put_head)
from gatesvr._core.hpack cimport HpackEncoder

cdef bytes TIMEOUT_NAME = b"\x00\x0cgrpc-timeout"  # without an index (RFC 7541 6.2.2)


cdef bytes field_bytes(str text):
    """Return a field's value; ValueError for what is not printable ASCII."""
    cdef bytes value
    cdef unsigned char byte
    if text.isascii():
        value = text.encode("ascii")
        for byte in value:
            if byte < 0x20 or byte == 0x7F:
                break
        else:
            return value
    raise ValueError(f"not printable ASCII: {text[:80]!r}")


cdef bytes name_bytes(str text):
    """Return a name of metadata: a-z, 0-9, "_", "-" and "." (gRPC over HTTP/2)."""
    cdef bytes name = field_bytes(text)
    cdef unsigned char byte
    for byte in name:
        if not (
            0x61 <= byte <= 0x7A or 0x30 <= byte <= 0x39 or byte == 0x5F or byte == 0x2D
            or byte == 0x2E
        ):
            break
    else:
        if name:
            return name
    raise ValueError(f"not a name of metadata: {text[:80]!r}")


cdef list metadata_fields(object metadata):
    cdef list fields = []
    cdef str name, value
    for name, value in metadata:
        fields.append((name_bytes(name), field_bytes(value)))
    return fields


cdef unsigned char *put_timeout(unsigned char *out, int64_t timeout_ms) noexcept:
    """Write a time as an HPACK string without Huffman's code: "\\x0629990m"; return its end."""
    cdef unsigned char digits[8]
    cdef unsigned char unit = 0x6D
    cdef int count = 0
    if timeout_ms > MAX_TIMEOUT:
        unit = 0x53
        timeout_ms = min(timeout_ms // 1000, <int64_t>MAX_TIMEOUT)
    while timeout_ms:
        digits[count] = <unsigned char>(0x30 + timeout_ms % 10)
        timeout_ms //= 10
        count += 1
    out[0] = <unsigned char>(count + 1)
    out += 1
    while count:
        count -= 1
        out[0] = digits[count]
        out += 1
    out[0] = unit
    return out + 1


cdef int put_block(Buffer *out, uint32_t max_frame, uint32_t stream_id, bytes block) except -1:
    """Write a block as HEADERS and CONTINUATIONs."""
    cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(block)
    cdef size_t left = PyBytes_GET_SIZE(block)
    cdef size_t size
    cdef uint8_t kind = HEADERS_FRAME
    cdef unsigned char *place
    while left:
        size = min(left, <size_t>max_frame)
        left -= size
        place = extend(out, HEAD_BYTES + size)
        place = put_head(place, <uint32_t>size, kind, 0 if left else END_HEADERS, stream_id)
        memcpy(place, data, size)
        data += size
        kind = CONTINUATION_FRAME
    return 0


@cython.final
@cython.auto_pickle(False)
cdef class _RequestHead:
    """The fields that every request with one path has."""


@cython.final
@cython.auto_pickle(False)
cdef class RequestEncoder:
    """Writes the heads of one connection's requests.

    Args:
        authority: The :authority of every request.
        scheme: http or https.
        user_agent: The user-agent of every request.

    Raises:
        ValueError: One of them is not printable ASCII.
    """

    def __cinit__(
        self, str authority not None, str scheme not None, str user_agent not None
    ):
        self._encoder = HpackEncoder(REQUEST_TABLE_BYTES)
        self._pseudo = [
            (b":method", b"POST"),
            (b":scheme", field_bytes(scheme)),
            (b":authority", field_bytes(authority)),
        ]
        self._common = [
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", field_bytes(user_agent)),
            (b"grpc-accept-encoding", b"identity"),
        ]
        self._heads = {}

    cdef int put(
        self, Buffer *out, uint32_t max_frame, uint32_t stream_id, str path, int64_t timeout_ms,
        object metadata
    ) except -1:
        """Write a request's head, which takes one frame in all but strange cases.

        Args:
            out: The connection's output.
            max_frame: Bytes of a frame.
            stream_id: The request's stream.
            path: /package.Service/Method.
            timeout_ms: Time until the deadline, 0 or less to leave it out.
            metadata: None, or pairs of lower-case names and printable ASCII.

        Raises:
            ValueError: A path or metadata that no header may hold.
        """
        cdef list more = None if metadata is None else metadata_fields(metadata)
        cdef bytes block = self._block_of(path)
        cdef bytes rest = b""
        cdef unsigned char timeout[MAX_TIMEOUT_FIELD]
        cdef size_t timeout_size = 0
        cdef unsigned char *place
        cdef size_t size
        if timeout_ms > 0:
            timeout_size = self._put_timeout(timeout, timeout_ms)
        if more:
            rest = self._encoder.encode(more, False)
        size = PyBytes_GET_SIZE(block) + timeout_size + PyBytes_GET_SIZE(rest)
        if size > max_frame:
            return put_block(out, max_frame, stream_id, block + timeout[:timeout_size] + rest)
        place = extend(out, HEAD_BYTES + size)
        place = put_head(place, <uint32_t>size, HEADERS_FRAME, END_HEADERS, stream_id)
        memcpy(place, PyBytes_AS_STRING(block), PyBytes_GET_SIZE(block))
        place += PyBytes_GET_SIZE(block)
        memcpy(place, timeout, timeout_size)
        memcpy(place + timeout_size, PyBytes_AS_STRING(rest), PyBytes_GET_SIZE(rest))
        return 0

    cdef int resize(self, uint32_t max_table_bytes) except -1:
        """Take the peer's HEADER_TABLE_SIZE."""
        self._encoder.set_max_table_bytes(max_table_bytes)
        self._is_resized = True
        self._timeout_name = None
        return 0

    cdef bytes _block_of(self, str path):
        """Return the constant part of a request's block, which comes first in it."""
        cdef _RequestHead head = <_RequestHead>self._heads.get(path)
        if (
            head is not None and head.block is not None and not self._is_resized
            and head.inserted == self._encoder.inserted
        ):
            return head.block
        return self._encode(path, head)

    cdef bytes _encode(self, str path, _RequestHead head):
        """Encode that part; keep it once it neither changes the table nor resizes it."""
        cdef uint64_t inserted = self._encoder.inserted
        cdef bint is_resized = self._is_resized
        cdef bytes block
        if head is None:
            head = _RequestHead.__new__(_RequestHead)
            head.fields = [*self._pseudo, (b":path", field_bytes(path)), *self._common]
            if len(self._heads) >= MAX_PATHS:
                self._heads.clear()
            self._heads[path] = head
        block = self._encoder.encode(head.fields)
        self._is_resized = False
        if inserted == self._encoder.inserted and not is_resized:
            head.block = block
            head.inserted = inserted
        return block

    cdef size_t _put_timeout(self, unsigned char *out, int64_t timeout_ms) except 0:
        """Write grpc-timeout; return its size. The first one puts the name into the table."""
        cdef unsigned char value[MAX_TIMEOUT_FIELD]
        cdef size_t size
        cdef bytes field
        if self._timeout_name is None:
            size = put_timeout(value, timeout_ms) - value
            field = self._encoder.encode([(b"grpc-timeout", value[1:size])])
            self._timeout_name = TIMEOUT_NAME
            self._timeout_inserted = UINT64_MAX
            size = PyBytes_GET_SIZE(field)
            memcpy(out, PyBytes_AS_STRING(field), size)
            return size
        if self._timeout_inserted != self._encoder.inserted:
            field = self._encoder.encode([(b"grpc-timeout", b"1m")], False)
            size = PyBytes_GET_SIZE(field) - 3
            self._timeout_name = field[:size] if field.endswith(b"\x021m") else TIMEOUT_NAME
            self._timeout_inserted = self._encoder.inserted
        size = PyBytes_GET_SIZE(self._timeout_name)
        memcpy(out, PyBytes_AS_STRING(self._timeout_name), size)
        return put_timeout(out + size, timeout_ms) - out
