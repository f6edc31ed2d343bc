"""Writing protobuf: messages read by reader.pxd, and the caller's values.

A put_ function writes at out, which must have room, and returns the position behind. The _size
function beside it returns the number of bytes. So a message is measured, allocated and written.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from gatesvr._core.reader cimport (
    BAD_TEXT, FIELD, Cursor, Entry, Map, Span, entry_size, is_dropped, next_field, open_cursor,
    read_entry, text_size)
from gatesvr._core.wire cimport put_varint, varint_size

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL


cdef inline unsigned char *put_text(
    unsigned char *out, unsigned char tag, const void *data, uint64_t size
) noexcept nogil:
    """Write a length-delimited field."""
    out[0] = tag
    out = put_varint(out + 1, size)
    memcpy(out, data, size)
    return out + size


cdef inline unsigned char *put_number(
    unsigned char *out, unsigned char tag, uint64_t value
) noexcept nogil:
    """Write a varint field; nothing for 0."""
    if value:
        out[0] = tag
        out = put_varint(out + 1, value)
    return out


cdef inline uint64_t number_size(uint64_t value) noexcept nogil:
    """Return the number of bytes that put_number would write."""
    return 1 + varint_size(value) if value else 0


cdef inline uint64_t optional_size(uint64_t size) noexcept nogil:
    """Return the size of a length-delimited field that is left out if empty."""
    return text_size(size) if size else 0


cdef inline uint64_t code_bits(int32_t value) noexcept nogil:
    """Return an int32 or enum as protobuf writes it: sign-extended to 64 bits."""
    return <uint64_t><int64_t>value


cdef inline unsigned char *put_entry(
    unsigned char *out, unsigned char tag, const void *key, uint64_t key_size,
    const void *value, uint64_t value_size
) noexcept nogil:
    """Write a map entry with both its fields, even if empty, as upb does."""
    out[0] = tag
    out = put_varint(out + 1, text_size(key_size) + text_size(value_size))
    out = put_text(out, 0x0A, key, key_size)
    return put_text(out, 0x12, value, value_size)


cdef inline unsigned char *put_map(
    unsigned char *out, unsigned char tag, const unsigned char *message, Map *entries,
    uint32_t wire_tag, bint is_filtered
) noexcept nogil:
    """Copy the entries of a message's map field (wire_tag) under another tag, in order."""
    cdef Cursor cursor
    cdef Entry entry
    open_cursor(&cursor, message + entries.first, entries.end - entries.first)
    while next_field(&cursor) == FIELD:
        if cursor.tag != wire_tag or read_entry(&cursor, &entry, True) != FIELD:
            continue
        if is_filtered and is_dropped(entry.key, entry.key_size):
            continue
        out = put_entry(out, tag, entry.key, entry.key_size, entry.value, entry.value_size)
    return out


cdef inline unsigned char *start_of(bytes data) noexcept:
    return <unsigned char *>PyBytes_AS_STRING(data)


cdef inline bytes new_bytes(uint64_t size):
    """Return a bytes object of that size; the caller writes its content."""
    return PyBytes_FromStringAndSize(NULL, size)


cdef inline bytes part(const unsigned char *message, Span span):
    return PyBytes_FromStringAndSize(<const char *>message + span.at, span.size)


cdef inline str text_part(const unsigned char *data, Py_ssize_t size):
    return PyUnicode_DecodeUTF8(<const char *>data, size, NULL)


cdef inline dict read_map(const unsigned char *message, Map *entries, uint32_t wire_tag):
    """Return a map field as a dict."""
    cdef Cursor cursor
    cdef Entry entry
    cdef dict result = {}
    open_cursor(&cursor, message + entries.first, entries.end - entries.first)
    while next_field(&cursor) == FIELD:
        if cursor.tag == wire_tag and read_entry(&cursor, &entry, True) == FIELD:
            result[text_part(entry.key, entry.key_size)] = text_part(entry.value, entry.value_size)
    return result


cdef inline str why(str name, int found):
    """Return the reason for refusing a message."""
    if found == BAD_TEXT:
        return f"undecodable {name}: a string is not UTF-8"
    return f"undecodable {name}: corrupt wire format"


cdef inline uint32_t checked_size(Py_ssize_t size) except? 0:
    """Return size if a message may have it; raise ValueError above protobuf's limit of 2 GiB."""
    if size > INT32_MAX:
        raise ValueError("above protobuf's limit of 2 GiB")
    return <uint32_t>size


# The caller's maps. They are measured, then written, and no code of the caller runs in between:
# they are held as an exact dict, or as a list of exact tuples made here.

cdef inline list pairs_of(pairs):
    """Return an iterable of pairs as a list of exact tuples."""
    cdef object key, value
    cdef list result = []
    for key, value in pairs:
        result.append((key, value))
    return result


cdef inline object items_of(headers):
    """Return a Mapping in the form for items_size and put_items; None if it is empty."""
    if headers is None or type(headers) is dict:
        return headers or None
    return pairs_of(headers.items())


cdef inline uint64_t pair_size(object key, object value) except 0:
    cdef Py_ssize_t key_size = 0
    cdef Py_ssize_t value_size = 0
    PyUnicode_AsUTF8AndSize(key, &key_size)
    PyUnicode_AsUTF8AndSize(value, &value_size)
    return entry_size(key_size, value_size)


cdef inline unsigned char *put_pair(
    unsigned char *out, unsigned char tag, object key, object value
) except NULL:
    cdef Py_ssize_t key_size = 0
    cdef Py_ssize_t value_size = 0
    cdef const char *key_data = PyUnicode_AsUTF8AndSize(key, &key_size)
    cdef const char *value_data = PyUnicode_AsUTF8AndSize(value, &value_size)
    return put_entry(out, tag, key_data, key_size, value_data, value_size)


cdef inline uint64_t items_size(object items) except? 0:
    """Return the bytes that put_items writes; ValueError for a str that cannot be encoded."""
    cdef PyObject *key = NULL
    cdef PyObject *value = NULL
    cdef Py_ssize_t at = 0
    cdef uint64_t size = 0
    cdef tuple pair
    if type(items) is dict:
        while PyDict_Next(items, &at, &key, &value):
            size += pair_size(<object>key, <object>value)
    elif items is not None:
        for pair in <list>items:
            size += pair_size(pair[0], pair[1])
    return size


cdef inline unsigned char *put_items(
    unsigned char *out, unsigned char tag, object items
) except NULL:
    """Write map entries in the order given."""
    cdef PyObject *key = NULL
    cdef PyObject *value = NULL
    cdef Py_ssize_t at = 0
    cdef tuple pair
    if type(items) is dict:
        while PyDict_Next(items, &at, &key, &value):
            out = put_pair(out, tag, <object>key, <object>value)
    elif items is not None:
        for pair in <list>items:
            out = put_pair(out, tag, pair[0], pair[1])
    return out
