"""A response's header blocks as gRPC reads them: head, trailers, and the status they mean."""
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint32_t
from libc.string cimport memcmp

from gatesvr._core.buffer cimport Buffer, append, clear, front_of, size_of

cdef enum:  # gRPC statuses made here
    GRPC_OK = 0
    GRPC_CANCELLED = 1
    GRPC_UNKNOWN = 2
    GRPC_PERMISSION_DENIED = 7
    GRPC_RESOURCE_EXHAUSTED = 8
    GRPC_UNIMPLEMENTED = 12
    GRPC_INTERNAL = 13
    GRPC_UNAVAILABLE = 14
    GRPC_UNAUTHENTICATED = 16  # the highest

cdef enum:  # of Head.grpc_status
    NO_STATUS = -1
    BAD_STATUS = -2

# What a header block says, as far as gRPC asks.
cdef struct Head:
    int http_status  # 0: none
    int grpc_status
    bint is_grpc  # content-type is application/grpc, with any suffix
    bint is_malformed
    bint has_fields  # other than pseudo-header fields
    Buffer text  # grpc-message, percent-encoded


cdef inline void clear_head(Head *head) noexcept:
    head.http_status = 0
    head.grpc_status = NO_STATUS
    head.is_grpc = head.is_malformed = head.has_fields = False
    clear(&head.text)


cdef inline bint is_text(
    const unsigned char *data, Py_ssize_t size, const char *text, Py_ssize_t text_size
) noexcept:
    return size == text_size and memcmp(data, text, text_size) == 0


cdef inline bint has_upper(const unsigned char *name, Py_ssize_t size) noexcept:
    cdef Py_ssize_t i
    for i in range(size):
        if 0x41 <= name[i] <= 0x5A:
            return True
    return False


cdef inline int read_number(const unsigned char *data, Py_ssize_t size) noexcept:
    """Return up to three decimal digits as a number, -1 for anything else."""
    cdef int value = 0
    cdef Py_ssize_t i
    if size < 1 or size > 3:
        return -1
    for i in range(size):
        if not 0x30 <= data[i] <= 0x39:
            return -1
        value = value * 10 + data[i] - 0x30
    return value


cdef inline bint is_grpc_type(const unsigned char *value, Py_ssize_t size) noexcept:
    """Return whether a content-type is gRPC's: application/grpc, +proto, ;charset and so on."""
    if size < 16 or memcmp(value, b"application/grpc", 16) != 0:
        return False
    return size == 16 or value[16] == 0x2B or value[16] == 0x3B


cdef inline void read_status(Head *head, const unsigned char *value, Py_ssize_t size) noexcept:
    cdef int status = read_number(value, size)
    if status < 0:
        head.grpc_status = BAD_STATUS
    else:
        head.grpc_status = status if status <= GRPC_UNAUTHENTICATED else GRPC_UNKNOWN


cdef inline int read_pseudo(
    Head *head,
    const unsigned char *name, Py_ssize_t name_size,
    const unsigned char *value, Py_ssize_t value_size,
) noexcept:
    """Read :status, the only pseudo-header field of a response, which comes first and once."""
    cdef int status = read_number(value, value_size) if value_size == 3 else -1
    if (
        status < 100 or head.http_status or head.has_fields
        or not is_text(name, name_size, b":status", 7)
    ):
        head.is_malformed = True
    else:
        head.http_status = status
    return 0


cdef inline int read_field(
    void *arg,
    const unsigned char *name, Py_ssize_t name_size,
    const unsigned char *value, Py_ssize_t value_size,
) except -1:
    """Take a field of a block into the Head at arg; drop what gRPC does not ask for."""
    cdef Head *head = <Head *>arg
    if name_size == 0:
        head.is_malformed = True
        return 0
    if name[0] == 0x3A:
        return read_pseudo(head, name, name_size, value, value_size)
    head.has_fields = True
    if name_size == 11 and memcmp(name, b"grpc-status", 11) == 0:
        read_status(head, value, value_size)
    elif name_size == 12 and memcmp(name, b"grpc-message", 12) == 0:
        clear(&head.text)
        append(&head.text, value, value_size)
    elif name_size == 12 and memcmp(name, b"content-type", 12) == 0:
        head.is_grpc = is_grpc_type(value, value_size)
    elif has_upper(name, name_size):
        head.is_malformed = True
    return 0


cdef inline int hex_digit(unsigned char byte) noexcept:
    if 0x30 <= byte <= 0x39:
        return byte - 0x30
    byte |= 0x20
    return byte - 0x57 if 0x61 <= byte <= 0x66 else -1


cdef inline str status_text(Head *head):
    """Return grpc-message, percent-decoded; what is no UTF-8 is replaced. Once a block."""
    cdef unsigned char *data = <unsigned char *>front_of(&head.text)
    cdef size_t size = size_of(&head.text)
    cdef size_t at = 0
    cdef size_t end = 0
    cdef int high, low
    if size == 0:
        return ""
    while at < size:
        if data[at] == 0x25 and size - at > 2:
            high = hex_digit(data[at + 1])
            low = hex_digit(data[at + 2])
            if high >= 0 and low >= 0:
                data[end] = <unsigned char>(high << 4 | low)
                at += 3
                end += 1
                continue
        data[end] = data[at]
        at += 1
        end += 1
    return PyUnicode_DecodeUTF8(<char *>data, end, b"replace")


cdef inline int status_of_http(int http_status) noexcept:
    """Return the gRPC status for an HTTP status (gRPC: HTTP to gRPC Status Code Mapping)."""
    if http_status == 400:
        return GRPC_INTERNAL
    if http_status == 401:
        return GRPC_UNAUTHENTICATED
    if http_status == 403:
        return GRPC_PERMISSION_DENIED
    if http_status == 404:
        return GRPC_UNIMPLEMENTED
    if http_status in (429, 502, 503, 504):
        return GRPC_UNAVAILABLE
    return GRPC_UNKNOWN


cdef inline int status_of_reset(uint32_t code) noexcept:
    """Return the gRPC status for a RST_STREAM (gRPC over HTTP/2: Errors)."""
    if code == 7:  # REFUSED_STREAM
        return GRPC_UNAVAILABLE
    if code == 8:  # CANCEL
        return GRPC_CANCELLED
    if code == 11:  # ENHANCE_YOUR_CALM
        return GRPC_RESOURCE_EXHAUSTED
    if code == 12:  # INADEQUATE_SECURITY
        return GRPC_PERMISSION_DENIED
    return GRPC_INTERNAL
