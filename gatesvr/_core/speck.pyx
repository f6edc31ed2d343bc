"""SPECK 64/128 (Beaulieu et al., 2013): a block cipher of 64 bits that few instructions compute.

The kernel computes it too, as a program of classic BPF: see transport/steering.py.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t


cdef inline uint32_t turn_left(uint32_t word, int bits) noexcept:
    return word << bits | word >> (32 - bits)


cdef inline uint32_t load(const unsigned char *data) noexcept:
    """Return the word at a place, its highest byte first."""
    return <uint32_t>data[0] << 24 | <uint32_t>data[1] << 16 | <uint32_t>data[2] << 8 | data[3]


cdef inline uint32_t turned(uint32_t word) noexcept:
    """Return a word with its bytes in the other order."""
    return word >> 24 | word >> 8 & 0xFF00 | word << 8 & 0xFF0000 | word << 24


cdef inline void store(unsigned char *data, uint32_t word) noexcept:
    data[0] = word >> 24
    data[1] = word >> 16 & 0xFF
    data[2] = word >> 8 & 0xFF
    data[3] = word & 0xFF


cdef int check(bytes block) except -1:
    if PyBytes_GET_SIZE(block) != 8:
        raise ValueError("a block has 8 bytes")
    return 0


@cython.final
@cython.auto_pickle(False)
cdef class Speck:
    """The cipher with one key.

    Args:
        key: 16 bytes.

    Raises:
        ValueError: The key has another size.
    """

    def __cinit__(self, bytes key not None):
        cdef uint32_t rest[3]
        cdef uint32_t word, last
        cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(key)
        cdef int index
        if PyBytes_GET_SIZE(key) != 16:
            raise ValueError("a key has 16 bytes")
        # Words of a key have their lowest byte first, as the designers' own code reads them.
        self._keys[0] = turned(load(data))
        for index in range(3):
            rest[index] = turned(load(data + 4 + 4 * index))
        for index in range(ROUNDS - 1):
            last = self._keys[index]
            word = (last + turn_left(rest[index % 3], 24)) ^ <uint32_t>index
            rest[index % 3] = word
            self._keys[index + 1] = turn_left(last, 3) ^ word

    @property
    def keys(self):
        """The keys of the rounds, in the order of enciphering."""
        cdef int index
        cdef list keys = []
        for index in range(ROUNDS):
            keys.append(self._keys[index])
        return keys

    def encipher(self, bytes block not None):
        """Return the block of a plain one, 8 bytes each."""
        check(block)
        cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(block)
        cdef uint32_t x = load(data)
        cdef uint32_t y = load(data + 4)
        cdef int index
        for index in range(ROUNDS):
            x = (turn_left(x, 24) + y) ^ self._keys[index]
            y = turn_left(y, 3) ^ x
        cdef bytes result = PyBytes_FromStringAndSize(NULL, 8)
        store(<unsigned char *>PyBytes_AS_STRING(result), x)
        store(<unsigned char *>PyBytes_AS_STRING(result) + 4, y)
        return result

    def first_byte(self, bytes block not None):
        """Return the first byte of the plain block of a block of 8 bytes."""
        check(block)
        cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(block)
        cdef uint32_t x = load(data)
        cdef uint32_t y = load(data + 4)
        cdef int index
        for index in range(ROUNDS - 1, -1, -1):
            y = turn_left(y ^ x, 29)
            x = turn_left((x ^ self._keys[index]) - y, 8)
        return x >> 24
