"""A bounds-checked cursor over protobuf's wire format, with upb's verdicts (PROTOCOL 1.5, 1.6).

Where upb departs from what the specification suggests: a tag and a length have at most 5 bytes, a
varint at most 10, and bits above the 64th are lost; field number 0 is corrupt, except inside an
unknown group; a known field with another wire type counts as unknown; every string is checked, even
if a later one replaces it; a map entry with an unknown field is dropped whole. One rule is our own:
unknown groups nest at most 4 deep (upb: 100).
"""
from libc.stdint cimport INT32_MAX, UINT32_MAX, uint32_t, uint64_t
from libc.string cimport memcpy

from gatesvr._core.wire cimport varint_size

cdef enum:
    MAX_NESTED_GROUPS = 4

cdef enum:  # results of a reading function
    END = 0  # end of the message; also: all good
    FIELD = 1  # a field was read
    CORRUPT = -1
    BAD_TEXT = -2  # a string that is not UTF-8

cdef struct Cursor:
    const unsigned char *at  # the next byte to read
    const unsigned char *end  # of the message
    const unsigned char *start  # of the last field: its tag
    const unsigned char *data  # of a length-delimited field
    uint64_t value  # of a varint field
    uint32_t size  # of data, bytes
    uint32_t tag  # of the last field: number << 3 | wire type

cdef struct Span:  # a part of a message
    uint32_t at  # bytes from the message's start
    uint32_t size  # bytes

cdef struct Map:  # a map<string, string> field of a message
    uint32_t first  # the tag of its first entry, bytes from the message's start
    uint32_t end  # behind its last entry
    uint32_t count  # entries on the wire, repeated keys and dropped entries included
    uint64_t text_bytes  # of all keys and values
    uint64_t encoded_bytes  # of the passed entries, rewritten under a one-byte tag

cdef struct Entry:  # of a map; a missing key or value is empty
    const unsigned char *key
    const unsigned char *value
    uint32_t key_size
    uint32_t value_size


cdef inline const unsigned char *get_varint(
    const unsigned char *at, const unsigned char *end, uint64_t *value
) noexcept nogil:
    """Read a varint; return the position behind it, NULL if it is cut off or above 10 bytes."""
    cdef uint64_t result = 0
    cdef int shift = 0
    while at < end and shift < 70:
        result |= <uint64_t>(at[0] & 0x7F) << shift
        if at[0] < 0x80:
            value[0] = result
            return at + 1
        at += 1
        shift += 7
    return NULL


cdef inline const unsigned char *get_varint32(
    const unsigned char *at, const unsigned char *end, uint32_t limit, uint32_t *value
) noexcept nogil:
    """Read a tag or a length; return NULL if it is cut off, above 5 bytes or above limit."""
    cdef uint64_t result = 0
    cdef int shift = 0
    while at < end and shift < 35:
        result |= <uint64_t>(at[0] & 0x7F) << shift
        if at[0] < 0x80:
            value[0] = <uint32_t>result
            return at + 1 if result <= limit else NULL
        at += 1
        shift += 7
    return NULL


cdef inline const unsigned char *skip_group(
    const unsigned char *at, const unsigned char *end, uint32_t tag
) noexcept nogil:
    """Skip an unknown group after its start tag; return the position behind its end tag."""
    cdef uint32_t[MAX_NESTED_GROUPS] open_numbers
    cdef int depth = 1
    cdef uint32_t size = 0
    cdef uint64_t value = 0
    open_numbers[0] = tag >> 3
    while depth:
        at = get_varint32(at, end, UINT32_MAX, &tag)
        if at == NULL:
            return NULL
        if tag & 7 == 0:
            at = get_varint(at, end, &value)
            if at == NULL:
                return NULL
            continue
        if tag & 7 == 1:
            size = 8
        elif tag & 7 == 2:
            at = get_varint32(at, end, INT32_MAX, &size)
            if at == NULL:
                return NULL
        elif tag & 7 == 3:
            if depth == MAX_NESTED_GROUPS:
                return NULL
            open_numbers[depth] = tag >> 3
            depth += 1
            continue
        elif tag & 7 == 4:
            depth -= 1
            if open_numbers[depth] != tag >> 3:
                return NULL
            continue
        elif tag & 7 == 5:
            size = 4
        else:
            return NULL
        if end - at < <Py_ssize_t>size:
            return NULL
        at += size
    return at


cdef inline void open_cursor(
    Cursor *cursor, const unsigned char *data, Py_ssize_t size
) noexcept nogil:
    """Set cursor to the start of a message."""
    cursor.at = cursor.start = cursor.data = data
    cursor.end = data + size
    cursor.value = 0
    cursor.size = cursor.tag = 0


cdef inline int next_field(Cursor *cursor) noexcept nogil:
    """Read the next field; return FIELD, END or CORRUPT. Skips fixed-size fields and groups."""
    cdef const unsigned char *at = cursor.at
    cdef const unsigned char *end = cursor.end
    cdef uint32_t tag
    if at >= end:
        return END
    cursor.start = at
    tag = at[0]
    if tag < 0x80:
        at += 1
    else:
        at = get_varint32(at, end, UINT32_MAX, &tag)
        if at == NULL:
            return CORRUPT
    if tag < 8:  # field number 0
        return CORRUPT
    cursor.tag = tag
    tag &= 7
    if tag == 2:
        if at < end and at[0] < 0x80:
            cursor.size = at[0]
            at += 1
        else:
            at = get_varint32(at, end, INT32_MAX, &cursor.size)
            if at == NULL:
                return CORRUPT
        if end - at < <Py_ssize_t>cursor.size:
            return CORRUPT
        cursor.data = at
        at += cursor.size
    elif tag == 0:
        if at < end and at[0] < 0x80:
            cursor.value = at[0]
            at += 1
        else:
            at = get_varint(at, end, &cursor.value)
            if at == NULL:
                return CORRUPT
    elif tag == 5 or tag == 1:
        if end - at < (4 if tag == 5 else 8):
            return CORRUPT
        at += 4 if tag == 5 else 8
    elif tag == 3:
        at = skip_group(at, end, cursor.tag)
        if at == NULL:
            return CORRUPT
    else:  # the end of a group that never began, or an invalid wire type
        return CORRUPT
    cursor.at = at
    return FIELD


cdef inline bint is_utf8(const unsigned char *at, uint32_t size) noexcept nogil:
    """Return whether a string is UTF-8: no overlong form, no surrogate, nothing above U+10FFFF."""
    cdef const unsigned char *end = at + size
    cdef uint64_t word
    cdef unsigned char lead
    while at < end:
        if end - at >= 8:
            memcpy(&word, at, 8)
            if not word & <uint64_t>0x8080808080808080:
                at += 8
                continue
        elif size >= 8:  # the last 8 bytes, some of them already checked
            memcpy(&word, end - 8, 8)
            if not word & <uint64_t>0x8080808080808080:
                return True
        lead = at[0]
        if lead < 0x80:
            at += 1
        elif lead < 0xC2:
            return False
        elif lead < 0xE0:
            if end - at < 2 or at[1] & 0xC0 != 0x80:
                return False
            at += 2
        elif lead < 0xF0:
            if end - at < 3 or at[1] & 0xC0 != 0x80 or at[2] & 0xC0 != 0x80:
                return False
            if (lead == 0xE0 and at[1] < 0xA0) or (lead == 0xED and at[1] >= 0xA0):
                return False
            at += 3
        else:
            if lead > 0xF4 or end - at < 4:
                return False
            if at[1] & 0xC0 != 0x80 or at[2] & 0xC0 != 0x80 or at[3] & 0xC0 != 0x80:
                return False
            if (lead == 0xF0 and at[1] < 0x90) or (lead == 0xF4 and at[1] >= 0x90):
                return False
            at += 4
    return True


cdef inline bint is_plain_text(const unsigned char *at, uint32_t size) noexcept nogil:
    """Return whether good UTF-8 holds no control character (U+0000-001F, U+007F-009F)."""
    cdef uint32_t i
    for i in range(size):
        if at[i] < 0x20 or at[i] == 0x7F:
            return False
        if at[i] == 0xC2 and at[i + 1] < 0xA0:  # valid UTF-8, so a second byte exists
            return False
    return True


cdef inline int read_entry(Cursor *field, Entry *entry, bint is_checked) noexcept nogil:
    """Read the map entry in field; return FIELD, END (drop it), CORRUPT or BAD_TEXT.

    is_checked: its strings are already known to be UTF-8.
    """
    cdef const unsigned char *data = field.data
    cdef uint32_t size = field.size
    cdef uint32_t value_at
    cdef Cursor cursor
    cdef int found
    cdef int result = FIELD
    if size >= 4 and data[0] == 0x0A and data[1] < 0x80:  # short cut: the form protobuf writes
        value_at = 2 + <uint32_t>data[1]
        if (
            value_at + 2 <= size and data[value_at] == 0x12 and data[value_at + 1] < 0x80
            and value_at + 2 + data[value_at + 1] == size
        ):
            entry.key = data + 2
            entry.key_size = data[1]
            entry.value = data + value_at + 2
            entry.value_size = data[value_at + 1]
            # Tags and lengths are ASCII here, so they neither end nor complete a character.
            return FIELD if is_checked or is_utf8(data, size) else BAD_TEXT
    open_cursor(&cursor, data, size)
    entry.key_size = entry.value_size = 0
    entry.key = entry.value = data
    while True:
        found = next_field(&cursor)
        if found != FIELD:
            return found if found else result
        if cursor.tag == 0x0A:
            entry.key = cursor.data
            entry.key_size = cursor.size
        elif cursor.tag == 0x12:
            entry.value = cursor.data
            entry.value_size = cursor.size
        else:
            result = END
            continue
        if not is_checked and not is_utf8(cursor.data, cursor.size):
            return BAD_TEXT


cdef inline uint64_t text_size(uint64_t size) noexcept nogil:
    """Return the size of a length-delimited field under a one-byte tag."""
    return 1 + varint_size(size) + size


cdef inline uint64_t entry_size(uint64_t key_size, uint64_t value_size) noexcept nogil:
    """Return the size of a map entry under a one-byte tag."""
    return text_size(text_size(key_size) + text_size(value_size))


cdef inline bint is_same(
    const unsigned char *key, uint32_t size, const char *name
) noexcept nogil:
    """Return whether key starts with name (size bytes of lower-case ASCII), ignoring case."""
    cdef uint32_t i
    cdef unsigned char byte
    for i in range(size):
        byte = key[i]
        if 0x41 <= byte <= 0x5A:
            byte |= 0x20
        if byte != <unsigned char>name[i]:
            return False
    return True


cdef inline bint is_dropped(const unsigned char *key, uint32_t size) noexcept nogil:
    """Return whether a client's header is dropped (PROTOCOL 7.2).

    Where clients are trusted with traces, the gateway writes those headers itself.
    """
    if size >= 3 and is_same(key, 3, b"gs-"):
        return True
    if size < 4:
        return False
    if size >= 5 and is_same(key, 5, b"grpc-"):
        return True
    if size >= 12 and is_same(key, 12, b"x-forwarded-"):
        return True
    if size == 4:
        return is_same(key, 4, b"zone")
    if size == 6:
        return is_same(key, 6, b"cookie")
    if size == 7:
        return is_same(key, 7, b"baggage")
    if size == 9:
        return is_same(key, 9, b"forwarded") or is_same(key, 9, b"x-real-ip")
    if size == 10:
        return is_same(key, 10, b"tracestate")
    if size == 11:
        return is_same(key, 11, b"traceparent")
    if size == 13:
        return is_same(key, 13, b"authorization")
    return False


cdef inline int note_entry(
    Map *entries, const unsigned char *message, Cursor *field, bint is_filtered
) noexcept nogil:
    """Check and count the map entry in field; return END, CORRUPT or BAD_TEXT."""
    cdef Entry entry
    cdef int found = read_entry(field, &entry, False)
    if found < 0:
        return found
    if not entries.count:
        entries.first = <uint32_t>(field.start - message)
    entries.end = <uint32_t>(field.at - message)
    entries.count += 1
    entries.text_bytes += <uint64_t>entry.key_size + entry.value_size
    if found == FIELD and not (is_filtered and is_dropped(entry.key, entry.key_size)):
        entries.encoded_bytes += entry_size(entry.key_size, entry.value_size)
    return END
