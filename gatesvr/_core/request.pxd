"""A request's header fields, as gRPC writes them."""
from libc.stdint cimport int64_t

cdef enum:
    MAX_TIMEOUT_FIELD = 32  # bytes: an encoded grpc-timeout
    MAX_TIMEOUT = 99_999_999  # of either unit: eight digits


cdef inline bint is_name(bytes name) noexcept:
    """Return whether a name of metadata is one: a-z, 0-9, "_", "-" and "." (gRPC over HTTP/2)."""
    cdef unsigned char byte
    for byte in name:
        if not (
            0x61 <= byte <= 0x7A or 0x30 <= byte <= 0x39 or byte == 0x5F or byte == 0x2D
            or byte == 0x2E
        ):
            return False
    return len(name) > 0


cdef inline bytes field_bytes(str text):
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


cdef inline list metadata_fields(object metadata):
    """Return metadata as fields; ValueError for what a field may not hold."""
    cdef list fields = []
    cdef str name, value
    cdef bytes key
    for name, value in metadata:
        key = field_bytes(name)
        if not is_name(key):
            raise ValueError(f"not a name of metadata: {name[:80]!r}")
        fields.append((key, field_bytes(value)))
    return fields


cdef inline unsigned char *put_timeout(unsigned char *out, int64_t timeout_ms) noexcept:
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
