"""The map of the codec: the contents of a decoded message, and their owners (DESIGN D6, D7).

A decoded message keeps the bytes object that holds it and the places of its parts. A part is copied
only when someone asks for it. Places count from the start of the message.
"""
from libc.stdint cimport uint32_t, uint64_t

from gatesvr._core.answer cimport Answer
from gatesvr._core.envelope cimport Business, Envelope

cdef enum:  # limits of PROTOCOL 1.6
    MAX_ACTION_BYTES = 64
    MAX_PARAMS = 64
    MAX_HEADERS = 32
    MAX_HEADER_BYTES = 8192  # keys and values

cdef enum:
    MAX_SHARED_BYTES = 16384  # a frame may keep a longer chunk alive only if it is most of it
    MIN_BUFFER_BYTES = 512  # first size of the buffer for an incomplete frame

cdef enum:
    MAX_NOTIFIES = 1024  # of one answer; a session takes far fewer (PROTOCOL 5.4)

cdef enum:
    TYPE_BUSINESS = 4  # RequestType
    TYPE_ERROR = 4  # PushType

cdef class ClientRequest:
    # the frame
    cdef bytes source  # holds the message: its chunk, or a copy
    cdef Py_ssize_t start  # of the message in source
    cdef uint32_t length  # bytes of the message
    cdef Envelope envelope
    # its BUSINESS payload; places count from the payload's start
    cdef bint is_parsed
    cdef str refusal  # why it is refused; None if it is not
    cdef str action_text  # None until action is read
    cdef Business business

    cdef const unsigned char *message(self) noexcept
    cdef int read(self, bytes source, Py_ssize_t start, uint32_t length) noexcept
    cdef int own(self) except -1
    cdef int parse(self) except -1


cdef class ServerPush:
    cdef bytes source
    cdef Py_ssize_t start
    cdef uint32_t length
    cdef Envelope envelope

    cdef const unsigned char *message(self) noexcept
    cdef int read(self, bytes source, Py_ssize_t start, uint32_t length) noexcept


cdef class FrameDecoder:
    cdef bint is_gateway  # reads requests, not pushes
    cdef public uint32_t max_message_bytes  # longest frame, without the 4 bytes of its length
    cdef str broken  # why the stream is broken; None while it is not
    cdef unsigned char *buffer  # owned; the incomplete frame with its length, or NULL
    cdef Py_ssize_t have  # bytes in buffer
    cdef Py_ssize_t capacity  # of buffer
    # sums over the last feed(), on the gateway's side
    cdef readonly bint is_business  # BUSINESS requests with a msg_id and no others
    cdef readonly uint64_t highest_ack
    cdef readonly Py_ssize_t message_bytes

    cdef int sum_up(self, list messages) except -1
    cdef int keep(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t need) except -1
    cdef Py_ssize_t resume(self, bytes chunk, list messages) except -1
    cdef bint is_legal(self, uint32_t length) except -1
    cdef void end(self, str reason) noexcept
    cdef void drop_buffer(self) noexcept
    cdef object decode(self, bytes source, Py_ssize_t start, uint32_t length)


cdef class RequestDecoder(FrameDecoder):
    pass


cdef class PushDecoder(FrameDecoder):
    pass


cdef class UpstreamAnswer:
    cdef bytes source  # holds the message
    cdef Py_ssize_t start  # of the message in source
    cdef uint32_t length  # bytes of the message
    cdef Answer answer
    cdef str refusal  # why it cannot be passed on; None if it can

    cdef const unsigned char *message_start(self) noexcept
