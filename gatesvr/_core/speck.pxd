"""The map of gatesvr._core.speck: the cipher of connection ids."""
from libc.stdint cimport uint32_t

cdef enum:
    ROUNDS = 27


cdef class Speck:
    cdef uint32_t _keys[ROUNDS]
