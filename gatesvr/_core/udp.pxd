"""The map of gatesvr._core.udp: recvmmsg, sendmmsg and UDP_SEGMENT where the system has them."""
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #include <errno.h>
    #include <string.h>
    #include <sys/types.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <netinet/in.h>
    #include <arpa/inet.h>

    /* -DGATESVR_NO_BATCH compiles on Linux what other systems get. */
    #if defined(__linux__) && !defined(GATESVR_NO_BATCH)
    #  ifndef UDP_SEGMENT
    #    define UDP_SEGMENT 103
    #  endif
    #  define BATCH_COMPILED 1
    typedef struct mmsghdr batch_message;
    #  define batch_recv(fd, messages, count) recvmmsg(fd, messages, count, MSG_DONTWAIT, NULL)
    #  define batch_send(fd, messages, count) sendmmsg(fd, messages, count, MSG_DONTWAIT)
    #else
    #  define UDP_SEGMENT 0
    #  define BATCH_COMPILED 0
    typedef struct { struct msghdr msg_hdr; unsigned int msg_len; } batch_message;
    static int batch_recv(int fd, batch_message *messages, unsigned int count)
    { (void)fd; (void)messages; (void)count; errno = ENOSYS; return -1; }
    #  define batch_send batch_recv
    #endif

    typedef union {
        char bytes[CMSG_SPACE(sizeof(uint16_t))];
        struct cmsghdr header; /* for its alignment */
    } segment_control;

    /* Have message cut into datagrams of size bytes each; the last may be shorter. */
    static void set_segment(struct msghdr *message, segment_control *control, uint16_t size)
    {
        struct cmsghdr *header = &control->header;
        memset(control, 0, sizeof(*control));
        header->cmsg_level = IPPROTO_UDP;
        header->cmsg_type = UDP_SEGMENT;
        header->cmsg_len = CMSG_LEN(sizeof(uint16_t));
        memcpy(CMSG_DATA(header), &size, sizeof(size));
        message->msg_control = control;
        message->msg_controllen = sizeof(control->bytes);
    }

    /* Whether the kernel knows UDP_SEGMENT; one that does not would send a run as one datagram. */
    static int has_segment(int fd)
    {
        int size = 0;
        socklen_t length = sizeof(size);
        return BATCH_COMPILED && getsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, &length) == 0;
    }
    """
    int BATCH_COMPILED
    int MSG_TRUNC
    int AF_INET
    int AF_INET6
    ctypedef unsigned int socklen_t
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    ctypedef struct batch_message:
        msghdr msg_hdr
        unsigned int msg_len
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    ctypedef union segment_control:
        char bytes[1]
    int batch_recv(int fd, batch_message *messages, unsigned int count)
    int batch_send(int fd, batch_message *messages, unsigned int count)
    void set_segment(msghdr *message, segment_control *control, uint16_t size)
    bint has_segment(int fd)
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)
    uint32_t htonl(uint32_t value)
    uint32_t ntohl(uint32_t value)
    int inet_pton(int family, const char *text, void *out)
    const char *inet_ntop(int family, const void *address, char *out, socklen_t size)

cdef enum:
    MAX_BATCH = 64  # datagrams a system call
    MAX_SEGMENTS = 64  # datagrams a run: what every kernel with UDP_SEGMENT takes
    MAX_RUN_BYTES = 65487  # payload that fits behind an IPv6 and a UDP header
    MAX_REFUSED_RUNS = 16  # runs refused in a row after which none is tried again
    MAX_TEXT = 64  # an IPv6 address as text

# A peer's address, in the system's form and in Python's.
cdef struct Peer:
    PyObject *address  # owned tuple; NULL: the slot is free
    sockaddr_in6 name  # a sockaddr_in for IPv4
    socklen_t size  # bytes of name

# What a system call reads into; allocated with the first read.
cdef struct Incoming:
    batch_message messages[MAX_BATCH]
    iovec parts[MAX_BATCH]
    sockaddr_in6 names[MAX_BATCH]

# What a system call sends: message i is one datagram, or a run of several parts.
cdef struct Outgoing:
    batch_message messages[MAX_BATCH]
    iovec parts[MAX_BATCH]
    sockaddr_in6 names[MAX_BATCH]
    segment_control controls[MAX_BATCH]


cdef class BatchSocket:
    # The socket, whose owner closes it; a closed one's fileno is -1, never another's file.
    cdef object _fileno
    cdef int _family
    cdef bint _is_connected

    # Reading.
    cdef Incoming *_incoming
    cdef unsigned char *_buffer  # MAX_BATCH datagrams of _max_datagram bytes
    cdef size_t _max_datagram
    cdef Peer *_peers  # a name's place is its hash, the newest of a place stays
    cdef size_t _max_peers  # a power of two

    # Writing.
    cdef Outgoing *_outgoing
    cdef int _refused_runs  # in a row

    # Counters and gauges, for the owner.
    cdef readonly bint is_segmenting
    cdef readonly uint64_t receive_calls
    cdef readonly uint64_t datagrams_received
    cdef readonly uint64_t bytes_received
    cdef readonly uint64_t datagrams_truncated
    cdef readonly uint64_t send_calls
    cdef readonly uint64_t datagrams_sent
    cdef readonly uint64_t bytes_sent
    cdef readonly uint64_t segments_sent

    cdef int _open_incoming(self) except -1
    cdef object _address_of(self, const sockaddr_in6 *name, socklen_t size)
    cdef int _fill(self, list datagrams, Py_ssize_t start, bint with_runs) except -1
