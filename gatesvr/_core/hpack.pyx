"""Fields of HTTP/2 to bytes and back (HPACK, RFC 7541).

A decoded field is handed to a C function, without a Python object. The dynamic table keeps its
entries' bytes in one of two halves of a buffer; what is still alive moves to the other half when
one is full, so a name that an insertion takes from the table stays readable.

Huffman's code is canonical: codes of one length rise with their symbols, and longer codes are
higher. So the lengths of the codes say all. The encoder writes strings as they are: that costs a
few bytes, which the peer would spend time on.
"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef object deque

from collections import deque

cdef enum:
    STATIC_COUNT = 61
    SYMBOLS = 257
    END_OF_STRING = 256
    MAX_CODE_BITS = 30
    MAX_KEPT_BYTES = 8192  # of the buffer for text, from one block to the next
    DEFAULT_TABLE_BYTES = 4096  # of each peer, until its SETTINGS have come

cdef enum:
    MAX_NUMBER_BYTES = 6  # of what put_number writes
    NO_NUMBER = -1  # of read_number

# RFC 7541 appendix A.
cdef tuple STATIC_TABLE = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
)

# RFC 7541 appendix B: bits of the code of each byte, sixteen a line, and of the end of a string.
cdef tuple CODE_BITS = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
)

cdef Field STATIC_FIELDS[STATIC_COUNT]  # they point into STATIC_TABLE
cdef dict STATIC_INDEX = {}  # field -> index
cdef dict STATIC_NAMES = {}  # name -> its lowest index

# Codes of up to 8 bits, by the next 8 bits; 0 bits where a longer code begins.
cdef unsigned char SHORT_SYMBOL[256]
cdef unsigned char SHORT_BITS[256]
# Longer ones, by their length. Codes are compared as 32 bits, with zeros behind.
cdef uint16_t BY_CODE[SYMBOLS]
cdef uint32_t FIRST_CODE[MAX_CODE_BITS + 1]
cdef uint64_t END_CODE[MAX_CODE_BITS + 1]  # behind the last of this length
cdef uint16_t FIRST_SYMBOL[MAX_CODE_BITS + 1]  # place in BY_CODE


cdef int build_static_table() except -1:
    cdef Py_ssize_t place
    cdef tuple field
    cdef bytes name, value
    for place, field in enumerate(STATIC_TABLE):
        name, value = field
        STATIC_FIELDS[place].name = <const unsigned char *>name
        STATIC_FIELDS[place].value = <const unsigned char *>value
        STATIC_FIELDS[place].name_size = len(name)
        STATIC_FIELDS[place].value_size = len(value)
        STATIC_INDEX[field] = place + 1
        STATIC_NAMES.setdefault(name, place + 1)
    return 0


cdef int build_codes() except -1:
    cdef uint64_t code = 0  # 32 bits
    cdef Py_ssize_t place = 0
    cdef int bits, symbol, begin
    for bits in range(1, MAX_CODE_BITS + 1):
        FIRST_CODE[bits] = <uint32_t>code
        FIRST_SYMBOL[bits] = <uint16_t>place
        for symbol in range(SYMBOLS):
            if CODE_BITS[symbol] != bits:
                continue
            BY_CODE[place] = <uint16_t>symbol
            place += 1
            if bits <= 8:
                for begin in range(<int>(code >> 24), <int>((code >> 24) + (256 >> bits))):
                    SHORT_SYMBOL[begin] = <unsigned char>symbol
                    SHORT_BITS[begin] = <unsigned char>bits
            code += <uint64_t>1 << (32 - bits)
        END_CODE[bits] = code
    assert place == SYMBOLS and code == <uint64_t>1 << 32, "the code is not complete"
    return 0


build_static_table()
build_codes()


cdef inline Py_ssize_t text_room(Py_ssize_t size) noexcept:
    """Return the bytes that the strings of a block may have: no code is below 5 bits."""
    return size + size * 3 // 5 + 1


cdef Py_ssize_t read_huffman(
    const unsigned char *at, Py_ssize_t size, unsigned char *out
) noexcept:
    """Decode a string to out; return its bytes, or -1 if it is corrupt (RFC 7541 5.2)."""
    cdef const unsigned char *end = at + size
    cdef const unsigned char *start = out
    cdef uint64_t ahead = 0  # the next bits, from the highest on
    cdef int have = 0  # of them
    cdef int bits
    cdef uint32_t code
    cdef uint16_t symbol
    while True:
        while have <= 56 and at < end:
            ahead |= <uint64_t>at[0] << (56 - have)
            have += 8
            at += 1
        bits = SHORT_BITS[ahead >> 56]
        if bits:
            symbol = SHORT_SYMBOL[ahead >> 56]
        else:
            code = <uint32_t>(ahead >> 32)
            bits = 9
            while code >= END_CODE[bits]:
                bits += 1
            symbol = BY_CODE[FIRST_SYMBOL[bits] + ((code - FIRST_CODE[bits]) >> (32 - bits))]
        if bits > have:
            break
        if symbol == END_OF_STRING:
            return -1
        out[0] = <unsigned char>symbol
        out += 1
        ahead <<= bits
        have -= bits
    # The first bits of the end of a string, which are ones, fill the last byte.
    if have > 7 or ahead != ~(~<uint64_t>0 >> have):
        return -1
    return out - start


cdef inline int64_t read_number(
    const unsigned char **at, const unsigned char *end, unsigned char mask
) noexcept:
    """Read a number whose first byte is there (RFC 7541 5.1); return NO_NUMBER if it is corrupt.

    Numbers of more than 6 bytes are, though they may be legal: none that we can use is so long.
    """
    cdef uint64_t number = at[0][0] & mask
    cdef int shift
    cdef unsigned char byte
    at[0] += 1
    if number != mask:
        return <int64_t>number
    for shift in range(0, 35, 7):
        if at[0] == end:
            break
        byte = at[0][0]
        at[0] += 1
        number += <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            return <int64_t>number
    return NO_NUMBER


cdef inline bint read_text(
    const unsigned char **at, const unsigned char *end, unsigned char **room,
    const unsigned char **text, Py_ssize_t *size,
) noexcept:
    """Read a string; return whether it is sound. Room is where a decoded one goes."""
    cdef bint is_huffman
    cdef int64_t number
    if at[0] == end:
        return False
    is_huffman = at[0][0] & 0x80 != 0
    number = read_number(at, end, 0x7F)
    if number < 0 or number > end - at[0]:
        return False
    if is_huffman:
        text[0] = room[0]
        size[0] = read_huffman(at[0], number, room[0])
        if size[0] < 0:
            return False
        room[0] += size[0]
    else:
        text[0] = at[0]
        size[0] = number
    at[0] += number
    return True


cdef int append_field(
    void *arg,
    const unsigned char *name, Py_ssize_t name_size,
    const unsigned char *value, Py_ssize_t value_size,
) except -1:
    """Append a field to the list that is arg."""
    (<list>arg).append((
        PyBytes_FromStringAndSize(<const char *>name, name_size),
        PyBytes_FromStringAndSize(<const char *>value, value_size),
    ))
    return 0


@cython.warn.undeclared(False)
class HpackError(ValueError):
    """A block of fields that cannot be used.

    Attributes:
        is_too_large: It is sound, but its list is above max_list_bytes.
    """

    def __init__(self, str message not None, bint is_too_large=False):
        super().__init__(message)
        self.is_too_large = is_too_large


@cython.final
@cython.auto_pickle(False)
cdef class HpackDecoder:
    """The receiving side of one connection.

    Args:
        max_table_bytes: Our SETTINGS_HEADER_TABLE_SIZE. The table starts with this size, so other
            than 4096 it must be known to the peer before its first block.
        max_list_bytes: What the fields of a block may come to, each with 32 bytes beside its name
            and value (RFC 9113 6.5.2).

    Raises:
        ValueError: An argument is out of range.
    """

    def __cinit__(self, uint32_t max_table_bytes=4096, uint32_t max_list_bytes=65536):
        cdef uint32_t places = 1
        if max_table_bytes > MAX_TABLE_BYTES:
            raise ValueError(f"max_table_bytes is above {MAX_TABLE_BYTES}")
        while places <= max_table_bytes // ENTRY_BYTES:
            places *= 2
        self._limit_bytes = self._max_bytes = max_table_bytes
        self._max_list_bytes = max_list_bytes
        self._half_bytes = 2 * max_table_bytes
        self._ring_mask = places - 1
        self._ring = <Entry *>PyMem_Malloc(places * sizeof(Entry))
        self._bytes = <unsigned char *>PyMem_Malloc(2 * <size_t>self._half_bytes)
        self._half = self._bytes
        if self._ring == NULL or self._bytes == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self._ring)
        PyMem_Free(self._bytes)
        PyMem_Free(self._text)

    def decode(self, bytes block not None):
        """Return the fields of a block as (name, value).

        Raises:
            HpackError: The block is corrupt, and the decoder of no more use; or its list is too
                large, which the error says.
        """
        cdef list fields = []
        cdef int verdict = self.decode_block(
            <const unsigned char *>block, len(block), append_field, <void *>fields)
        if verdict == HPACK_CORRUPT:
            raise HpackError("corrupt block of fields")
        if verdict == HPACK_TOO_LARGE:
            raise HpackError(f"list of fields above {self._max_list_bytes} bytes", True)
        return fields

    cdef int decode_block(
        self, const unsigned char *data, Py_ssize_t size, on_field callback, void *arg
    ) except -1:
        cdef const unsigned char *at = data
        cdef const unsigned char *end = data + size
        cdef uint64_t list_bytes = 0
        cdef int64_t number
        cdef unsigned char first
        cdef Field field
        self.reserve_text(text_room(size))
        while at < end:
            first = at[0]
            if first & 0x80:
                if not self.find(<uint64_t>read_number(&at, end, 0x7F), &field):
                    return HPACK_CORRUPT
            elif first & 0xE0 == 0x20:
                number = read_number(&at, end, 0x1F)
                # "at the beginning of the first header block following the change" (4.2)
                if list_bytes or number < 0 or number > self._limit_bytes:
                    return HPACK_CORRUPT
                self._max_bytes = <uint32_t>number
                self.evict(self._max_bytes)
                continue
            elif not self.read_literal(&at, end, 0x3F if first & 0x40 else 0x0F, &field):
                return HPACK_CORRUPT
            list_bytes += ENTRY_BYTES + field.name_size + field.value_size
            if list_bytes <= self._max_list_bytes:
                callback(arg, field.name, field.name_size, field.value, field.value_size)
            if first & 0xC0 == 0x40:
                self.insert(&field)
        return HPACK_OK if list_bytes <= self._max_list_bytes else HPACK_TOO_LARGE

    cdef int reserve_text(self, Py_ssize_t size) except -1:
        """Make room for so much text, and give back what a larger block took."""
        cdef unsigned char *text
        if size <= self._text_bytes <= max(size, <Py_ssize_t>MAX_KEPT_BYTES):
            return 0
        size = max(size, <Py_ssize_t>256)
        text = <unsigned char *>PyMem_Realloc(self._text, size)
        if text == NULL:
            raise MemoryError
        self._text = text
        self._text_bytes = size
        return 0

    cdef bint find(self, uint64_t index, Field *field) noexcept:
        """Read the entry with an index; return whether there is one."""
        cdef Entry *entry
        index -= 1
        if index < STATIC_COUNT:
            field[0] = STATIC_FIELDS[index]
            return True
        index -= STATIC_COUNT
        if index >= self._count:
            return False
        entry = &self._ring[(self._oldest + self._count - 1 - <uint32_t>index) & self._ring_mask]
        field.name = self._half + (entry.at - self._half_at)
        field.name_size = entry.name_size
        field.value = field.name + entry.name_size
        field.value_size = entry.value_size
        return True

    cdef bint read_literal(
        self, const unsigned char **at, const unsigned char *end, unsigned char mask, Field *field
    ) noexcept:
        """Read a literal field; return whether it is sound."""
        cdef unsigned char *room = self._text
        cdef int64_t index = read_number(at, end, mask)
        if index == 0:
            if not read_text(at, end, &room, &field.name, &field.name_size):
                return False
        elif not self.find(<uint64_t>index, field):
            return False
        return read_text(at, end, &room, &field.value, &field.value_size)

    cdef void evict(self, uint32_t max_bytes) noexcept:
        """Drop the oldest entries until the table has at most so many bytes."""
        cdef Entry *entry
        while self._table_bytes > max_bytes:
            entry = &self._ring[self._oldest & self._ring_mask]
            self._table_bytes -= ENTRY_BYTES + entry.name_size + entry.value_size
            self._oldest += 1
            self._count -= 1

    cdef void insert(self, Field *field) noexcept:
        """Add a field, whose name may be that of an entry which this drops (RFC 7541 4.4)."""
        cdef Py_ssize_t size = field.name_size + field.value_size
        cdef uint32_t kept = 0
        cdef unsigned char *other
        cdef Entry *entry
        if ENTRY_BYTES + size > self._max_bytes:
            self.evict(0)
            return
        self.evict(self._max_bytes - <uint32_t>size - ENTRY_BYTES)
        if self._end_at - self._half_at + size > self._half_bytes:
            if self._count:
                kept = <uint32_t>(self._end_at - self._ring[self._oldest & self._ring_mask].at)
            other = self._bytes + (self._half_bytes if self._half == self._bytes else 0)
            memcpy(other, self._half + (self._end_at - kept - self._half_at), kept)
            self._half = other
            self._half_at = self._end_at - kept
        entry = &self._ring[(self._oldest + self._count) & self._ring_mask]
        entry.at = self._end_at
        entry.name_size = <uint32_t>field.name_size
        entry.value_size = <uint32_t>field.value_size
        other = self._half + (self._end_at - self._half_at)
        memcpy(other, field.name, field.name_size)
        memcpy(other + field.name_size, field.value, field.value_size)
        self._end_at += size
        self._count += 1
        self._table_bytes += <uint32_t>size + ENTRY_BYTES


cdef inline unsigned char *put_number(
    unsigned char *out, unsigned char first, unsigned char mask, uint64_t number
) noexcept:
    """Write a number behind the bits of first (room: MAX_NUMBER_BYTES); return the end."""
    if number < mask:
        out[0] = first | <unsigned char>number
        return out + 1
    out[0] = first | mask
    out += 1
    number -= mask
    while number >= 0x80:
        out[0] = <unsigned char>(number | 0x80)
        number >>= 7
        out += 1
    out[0] = <unsigned char>number
    return out + 1


cdef inline unsigned char *put_text(unsigned char *out, bytes text) noexcept:
    """Write a string; return the end."""
    out = put_number(out, 0, 0x7F, len(text))
    memcpy(out, <const char *>text, len(text))
    return out + len(text)


@cython.final
@cython.auto_pickle(False)
cdef class HpackEncoder:
    """The sending side of one connection.

    It fills its table once and evicts only where the peer makes the table smaller. So whoever sends
    the same fields again and again soon sends the same bytes.

    Args:
        max_table_bytes: What the table may have, whatever more the peer allows. Until it has
            allowed something, it is also at most 4096 bytes (RFC 9113 6.5.2).

    Attributes:
        inserted: Changes of the table so far. A block that encode() returned without changing it
            may be sent again as long as it stays the same.

    Raises:
        ValueError: max_table_bytes is out of range.
    """

    def __cinit__(self, uint32_t max_table_bytes=4096):
        if max_table_bytes > MAX_TABLE_BYTES:
            raise ValueError(f"max_table_bytes is above {MAX_TABLE_BYTES}")
        self._limit_bytes = max_table_bytes
        self._max_bytes = DEFAULT_TABLE_BYTES
        self._entries = deque()
        self._fields = {}
        self._names = {}
        self.set_max_table_bytes(DEFAULT_TABLE_BYTES)

    cpdef bytes encode(self, object fields, bint remember=True):
        """Return fields as a block.

        Args:
            fields: Tuples (name, value) of bytes, the names in lower case.
            remember: Insert what is new and fits into the table. Else new fields go as literals,
                as do those that do not fit.

        Raises:
            TypeError, ValueError: A field is not such a tuple; nothing has changed then.
        """
        cdef list items = list(fields)
        cdef Py_ssize_t room = 2 * MAX_NUMBER_BYTES
        cdef tuple field
        cdef bytes name, value, block
        cdef unsigned char *start
        cdef unsigned char *out
        cdef uint64_t index
        for field in items:
            name, value = field
            if name is None or value is None:
                raise TypeError("a name or a value is None")
            room += 3 * MAX_NUMBER_BYTES + len(name) + len(value)
        block = PyBytes_FromStringAndSize(NULL, room)
        start = out = <unsigned char *><char *>block
        if self._is_resized:
            if self._lowest_bytes < self._max_bytes:
                out = put_number(out, 0x20, 0x1F, self._lowest_bytes)
            out = put_number(out, 0x20, 0x1F, self._max_bytes)
            self._is_resized = False
            self.inserted += 1
        for field in items:
            index = self.index_of(field)
            if index:
                out = put_number(out, 0x80, 0x7F, index)
                continue
            name, value = field
            index = self.index_of_name(name)
            if remember and self.insert(field, name, ENTRY_BYTES + len(name) + len(value)):
                out = put_number(out, 0x40, 0x3F, index)
            else:
                out = put_number(out, 0, 0x0F, index)
            if not index:
                out = put_text(out, name)
            out = put_text(out, value)
        return block[:out - start]

    cpdef set_max_table_bytes(self, uint32_t size):
        """Take the peer's SETTINGS_HEADER_TABLE_SIZE, in bytes.

        The next block starts with what tells the peer that we follow (RFC 7541 4.2).
        """
        size = min(size, self._limit_bytes)
        if size == self._max_bytes:
            return
        self._lowest_bytes = min(self._lowest_bytes, size) if self._is_resized else size
        self._max_bytes = size
        self._is_resized = True
        self.inserted += 1
        while self._table_bytes > size:
            self.evict()

    cdef uint64_t index_of(self, tuple field) except? 0:
        """Return the index of a field, 0 if it has none."""
        cdef object found
        found = STATIC_INDEX.get(field)
        if found is not None:
            return found
        found = self._fields.get(field)
        return 0 if found is None else STATIC_COUNT + 1 + self._count - <uint64_t>found

    cdef uint64_t index_of_name(self, bytes name) except? 0:
        """Return an index with a name, 0 if there is none."""
        cdef object found
        found = STATIC_NAMES.get(name)
        if found is not None:
            return found
        found = self._names.get(name)
        return 0 if found is None else STATIC_COUNT + 1 + self._count - <uint64_t>found

    cdef bint insert(self, tuple field, bytes name, Py_ssize_t size) except -1:
        """Add a field to the table if it fits; return whether it does."""
        if self._table_bytes + size > self._max_bytes:
            return False
        self._count += 1
        self._fields[field] = self._count
        self._names[name] = self._count
        self._entries.append(field)
        self._table_bytes += <uint32_t>size
        self.inserted += 1
        return True

    cdef int evict(self) except -1:
        """Drop the oldest entry."""
        cdef uint64_t number = self._count - <uint64_t>len(self._entries) + 1
        cdef tuple field = self._entries.popleft()
        cdef bytes name, value
        name, value = field
        del self._fields[field]
        if self._names[name] == number:
            del self._names[name]
        self._table_bytes -= <uint32_t>(ENTRY_BYTES + len(name) + len(value))
        return 0
