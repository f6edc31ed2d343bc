"""The map of gatesvr._core.udp: recvmmsg, sendmmsg and UDP_SEGMENT, where the system has them."""
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

    /* -DGATESVR_NO_BATCH builds the other systems' code on Linux. */
    #if defined(__linux__) && !defined(GATESVR_NO_BATCH)
    #  ifndef UDP_SEGMENT
    #    define UDP_SEGMENT 103
    #  endif
    #  define BATCH_COMPILED 1
    #  define LOCAL_INFO_BYTES sizeof(struct in6_pktinfo)
    typedef struct mmsghdr batch_message;
    #  define batch_recv(fd, messages, count) recvmmsg(fd, messages, count, MSG_DONTWAIT, NULL)
    #  define batch_send(fd, messages, count) sendmmsg(fd, messages, count, MSG_DONTWAIT)
    #else
    #  define UDP_SEGMENT 0
    #  define BATCH_COMPILED 0
    #  define LOCAL_INFO_BYTES 0
    typedef struct { struct msghdr msg_hdr; unsigned int msg_len; } batch_message;
    static int batch_recv(int fd, batch_message *messages, unsigned int count)
    { (void)fd; (void)messages; (void)count; errno = ENOSYS; return -1; }
    #  define batch_send batch_recv
    #endif

    /* Ancillary data of a message: its source address, and the size to cut it into. */
    typedef union {
        char bytes[CMSG_SPACE(sizeof(uint16_t)) + CMSG_SPACE(LOCAL_INFO_BYTES)];
        struct cmsghdr header; /* for its alignment */
    } control_buffer;

    static void *add_control(
        struct msghdr *message, control_buffer *control, int level, int type, size_t size)
    {
        size_t used = message->msg_controllen;
        struct cmsghdr *header = (struct cmsghdr *)(control->bytes + used);
        memset(header, 0, CMSG_SPACE(size));
        header->cmsg_level = level;
        header->cmsg_type = type;
        header->cmsg_len = CMSG_LEN(size);
        message->msg_control = control;
        message->msg_controllen = used + CMSG_SPACE(size);
        return CMSG_DATA(header);
    }

    /* Make the kernel cut message into datagrams of size bytes; the last may be shorter. */
    static void set_segment(struct msghdr *message, control_buffer *control, uint16_t size)
    {
        memcpy(add_control(message, control, IPPROTO_UDP, UDP_SEGMENT, sizeof(size)),
               &size, sizeof(size));
    }

    /* Make the socket report each datagram's local address; return 0, or -1 and errno. */
    static int ask_local(int fd, int family)
    {
    #if BATCH_COMPILED
        int on = 1;
        if (family == AF_INET)
            return setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
        return setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on));
    #else
        (void)fd; (void)family; errno = ENOSYS; return -1;
    #endif
    }

    /* Send message from a local address: 4 bytes on an IPv4 socket, 16 on an IPv6 one.
       Routing still chooses the interface. */
    static void set_local(
        struct msghdr *message, control_buffer *control, int family, const char *local)
    {
    #if BATCH_COMPILED
        if (family == AF_INET) {
            struct in_pktinfo *info = add_control(
                message, control, IPPROTO_IP, IP_PKTINFO, sizeof(*info));
            memcpy(&info->ipi_spec_dst, local, sizeof(info->ipi_spec_dst));
        } else {
            struct in6_pktinfo *info = add_control(
                message, control, IPPROTO_IPV6, IPV6_PKTINFO, sizeof(*info));
            memcpy(&info->ipi6_addr, local, sizeof(info->ipi6_addr));
        }
    #else
        (void)message; (void)control; (void)family; (void)local;
    #endif
    }

    /* Copy the local address that message arrived at; return its bytes, 0 for none. */
    static int get_local(struct msghdr *message, char *local)
    {
    #if BATCH_COMPILED
        struct cmsghdr *header;
        for (header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
            if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_PKTINFO) {
                struct in_pktinfo *info = (struct in_pktinfo *)CMSG_DATA(header);
                memcpy(local, &info->ipi_spec_dst, 4);
                return 4;
            }
            if (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_PKTINFO) {
                struct in6_pktinfo *info = (struct in6_pktinfo *)CMSG_DATA(header);
                if (IN6_IS_ADDR_MULTICAST(&info->ipi6_addr))
                    return 0;
                memcpy(local, &info->ipi6_addr, 16);
                return 16;
            }
        }
    #else
        (void)message; (void)local;
    #endif
        return 0;
    }

    /* Whether the kernel knows UDP_SEGMENT; one that does not sends a run as one datagram. */
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
    ctypedef union control_buffer:
        char bytes[1]
    int batch_recv(int fd, batch_message *messages, unsigned int count)
    int batch_send(int fd, batch_message *messages, unsigned int count)
    void set_segment(msghdr *message, control_buffer *control, uint16_t size)
    int ask_local(int fd, int family)
    void set_local(msghdr *message, control_buffer *control, int family, const char *local)
    int get_local(msghdr *message, char *local)
    bint has_segment(int fd)
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)
    uint32_t htonl(uint32_t value)
    uint32_t ntohl(uint32_t value)
    int inet_pton(int family, const char *text, void *out)
    const char *inet_ntop(int family, const void *address, char *out, socklen_t size)

cdef enum:
    MAX_BATCH = 64  # datagrams a system call
    MAX_SEGMENTS = 64  # datagrams a run; every kernel with UDP_SEGMENT accepts as many
    MAX_RUN_BYTES = 65487  # largest payload behind an IPv6 and a UDP header
    MAX_REFUSED_RUNS = 16  # after so many refusals in a row, no more runs are tried
    MAX_TEXT = 64  # an IPv6 address as text

# A peer's address, in the system's form and in Python's.
cdef struct Peer:
    PyObject *address  # owned tuple; NULL: the slot is free
    sockaddr_in6 name  # a sockaddr_in for IPv4
    socklen_t size  # bytes of name
    int local_size  # bytes of local, 0 for none
    char local[16]  # our address that it sends to

# Buffers for a read; allocated at the first read.
cdef struct Incoming:
    batch_message messages[MAX_BATCH]
    iovec parts[MAX_BATCH]
    sockaddr_in6 names[MAX_BATCH]
    control_buffer controls[MAX_BATCH]

# The messages of a write: message i is one datagram, or a run of several parts.
cdef struct Outgoing:
    batch_message messages[MAX_BATCH]
    iovec parts[MAX_BATCH]
    sockaddr_in6 names[MAX_BATCH]
    control_buffer controls[MAX_BATCH]


cdef class BatchSocket:
    # The socket; its owner closes it. A closed one has fileno -1, never another file's.
    cdef object _fileno
    cdef int _family
    cdef bint _is_connected
    cdef bint _with_local  # peers' addresses have the local one behind them
    cdef bytes _local  # the last local address, reused for the next peer

    # Reading.
    cdef Incoming *_incoming
    cdef unsigned char *_buffer  # MAX_BATCH datagrams of _max_datagram bytes
    cdef size_t _max_datagram
    cdef Peer *_peers  # hash table without chains: the newest peer of a place wins
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
    cdef object _address_of(
        self, const sockaddr_in6 *name, socklen_t size, const char *local, int local_size
    )
    cdef int _fill(self, list datagrams, Py_ssize_t start, bint with_runs) except -1
