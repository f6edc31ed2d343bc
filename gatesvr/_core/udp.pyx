"""One UDP socket, many datagrams a system call (DESIGN D2).

Reading is recvmmsg into buffers that stay. Writing is sendmmsg: consecutive datagrams of one size
to one peer form a *run*, which the kernel gets as one piece and cuts itself (UDP_SEGMENT). The
module knows no loop, clock or log. It also builds on systems without these calls; there HAS_BATCH
is False and the caller uses another kind of socket.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetFromErrno
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.errno cimport EAGAIN, EBADF, EINTR, EINVAL, EIO, EMSGSIZE, errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cdef extern from "Python.h":
    Py_ssize_t PyBytes_GET_SIZE(object data)
    bint PyBytes_CheckExact(object data)
    const char *PyUnicode_AsUTF8(object text) except NULL
    bint PyUnicode_IS_ASCII(object text) noexcept


cdef bint _has_batch() noexcept:
    """Return whether the calls are compiled in and the system permits them."""
    return BATCH_COMPILED and batch_recv(-1, NULL, 0) < 0 and errno == EBADF


globals()["HAS_BATCH"] = _has_batch()


cdef inline int raise_errno() except -1:
    PyErr_SetFromErrno(OSError)
    return 0


cdef inline int raise_invalid(object address) except -1:
    raise OSError(EINVAL, f"not a numeric socket address: {address!r}")


cdef inline size_t hash_name(const sockaddr_in6 *name, socklen_t size) noexcept:
    """Return a hash of the address and port; a peer that picks collisions gains only misses."""
    cdef uint64_t words[2]
    cdef uint64_t value
    if size == sizeof(sockaddr_in):
        value = (<const sockaddr_in *>name).sin_addr.s_addr
    else:
        memcpy(words, &name.sin6_addr, sizeof(words))
        value = words[0] * 31 + words[1]
    value = (value << 16 ^ value >> 48 ^ name.sin6_port) * <uint64_t>0x9E3779B97F4A7C15
    return <size_t>(value >> 40)


cdef object address_from(const sockaddr_in6 *name):
    """Return the tuple that socket.recvfrom gives, with a numeric scope."""
    cdef char text[MAX_TEXT]
    cdef const sockaddr_in *name4 = <const sockaddr_in *>name
    if name.sin6_family == AF_INET:
        if inet_ntop(AF_INET, &name4.sin_addr, text, MAX_TEXT) == NULL:
            raise_errno()
        return (<bytes>text).decode("ascii"), ntohs(name4.sin_port)
    if inet_ntop(AF_INET6, &name.sin6_addr, text, MAX_TEXT) == NULL:
        raise_errno()
    return (
        (<bytes>text).decode("ascii"),
        ntohs(name.sin6_port),
        ntohl(name.sin6_flowinfo),
        name.sin6_scope_id,
    )


cdef const char *local_of(object address, int family) except? NULL:
    """Return the local address attached to a peer's, NULL without one."""
    cdef object last = (<tuple>address)[len(<tuple>address) - 1]
    if type(last) is not bytes:
        return NULL
    if PyBytes_GET_SIZE(last) != (4 if family == AF_INET else 16):
        raise_invalid(address)
    return PyBytes_AS_STRING(last)


cdef socklen_t put_address(sockaddr_in6 *name, object address, int family) except 0:
    """Write an address of the family at name; return its size in bytes."""
    cdef sockaddr_in *name4 = <sockaddr_in *>name
    cdef void *place = &name4.sin_addr if family == AF_INET else <void *>&name.sin6_addr
    cdef Py_ssize_t count
    if type(address) is not tuple:
        raise_invalid(address)
    count = len(<tuple>address)
    if count < 2 or type((<tuple>address)[0]) is not str:
        raise_invalid(address)
    memset(name, 0, sizeof(sockaddr_in6))
    if (
        not PyUnicode_IS_ASCII((<tuple>address)[0])
        or inet_pton(family, PyUnicode_AsUTF8((<tuple>address)[0]), place) != 1
    ):
        raise_invalid(address)
    name.sin6_family = <unsigned short>family
    name.sin6_port = htons(<uint16_t>(<tuple>address)[1])  # same place in both forms
    if family == AF_INET:
        return sizeof(sockaddr_in)
    if count >= 4:
        name.sin6_flowinfo = htonl(<uint32_t>(<tuple>address)[2])
        name.sin6_scope_id = <uint32_t>(<tuple>address)[3]
    return sizeof(sockaddr_in6)


@cython.final
@cython.auto_pickle(False)
cdef class BatchSocket:
    """Datagrams of one non-blocking UDP socket, read and written in batches.

    Memory: 19 KB, 40 bytes for each of max_peers, and from the first read on 64 x max_datagram. Of
    the latter only pages that datagrams reached are resident: 4 KB for each place in a batch.

    Args:
        sock: The socket, IPv4 or IPv6; its owner keeps it open and closes it.
        max_peers: Addresses kept as objects, a power of two; others are rebuilt.
        max_datagram: Bytes; longer datagrams are dropped.
        with_local: Whether addresses end with a local address, as bytes: the one that a datagram
            arrived at, or the one to send from.

    Attributes:
        is_segmenting: Whether runs go out as one piece. Off if the system cannot or refuses to.
        receive_calls: System calls.
        datagrams_received: Datagrams, without truncated ones.
        bytes_received: Their bytes.
        datagrams_truncated: Datagrams longer than max_datagram.
        send_calls: System calls.
        datagrams_sent: Datagrams, each of a run counted.
        bytes_sent: Their bytes.
        segments_sent: Those of them that went out in runs.

    Raises:
        OSError: The socket is of another family.
        ValueError: A limit is out of range.
    """

    def __cinit__(
        self,
        object sock not None,
        *,
        size_t max_peers=1,
        size_t max_datagram=65535,
        bint with_local=False,
    ):
        self._incoming = NULL
        self._buffer = NULL
        self._outgoing = NULL
        self._peers = NULL
        self._max_peers = 0
        if max_peers == 0 or max_peers & (max_peers - 1) or max_peers > 1 << 20:
            raise ValueError("max_peers is not a power of two up to 1048576")
        if max_datagram == 0 or max_datagram > 65535:
            raise ValueError("max_datagram is not from 1 to 65535")
        self._fileno = sock.fileno
        self._family = int(sock.family)
        if self._family != AF_INET and self._family != AF_INET6:
            raise OSError(EINVAL, "not an IPv4 or IPv6 socket")
        try:
            sock.getpeername()
            self._is_connected = True
        except OSError:
            self._is_connected = False
        self._max_datagram = max_datagram
        self._with_local = with_local
        self._local = b""
        if with_local and ask_local(self._fileno(), self._family) < 0:
            raise_errno()
        self._outgoing = <Outgoing *>PyMem_Calloc(1, sizeof(Outgoing))
        self._peers = <Peer *>PyMem_Calloc(max_peers, sizeof(Peer))
        if self._outgoing == NULL or self._peers == NULL:
            raise MemoryError
        self._max_peers = max_peers
        self.is_segmenting = has_segment(self._fileno())

    def __dealloc__(self):
        cdef size_t index
        for index in range(self._max_peers):
            Py_XDECREF(self._peers[index].address)
        PyMem_Free(self._peers)
        PyMem_Free(self._incoming)
        PyMem_Free(self._buffer)
        PyMem_Free(self._outgoing)

    def receive_into(self, list batch not None):
        """Append the datagrams that have arrived, at most 64, as (data, address).

        Makes one system call. IPv6 addresses have a numeric scope.

        Raises:
            OSError: The network reports an error, or the socket is closed.
        """
        cdef Incoming *incoming
        cdef int fd = self._fileno()
        cdef int count, index
        cdef int local_size = 0
        cdef size_t size
        cdef bytes data
        cdef char local[16]
        cdef msghdr *header
        if self._incoming == NULL:
            self._open_incoming()
        incoming = self._incoming
        self.receive_calls += 1
        count = batch_recv(fd, incoming.messages, MAX_BATCH)
        if count < 0:
            if errno != EAGAIN and errno != EINTR:
                raise_errno()
            return
        for index in range(count):
            size = incoming.messages[index].msg_len
            header = &incoming.messages[index].msg_hdr
            if header.msg_flags & MSG_TRUNC:
                self.datagrams_truncated += 1
            else:
                data = PyBytes_FromStringAndSize(
                    <char *>self._buffer + index * self._max_datagram, size
                )
                if self._with_local:
                    local_size = get_local(header, local)
                batch.append((
                    data,
                    self._address_of(
                        &incoming.names[index], header.msg_namelen, local, local_size
                    ),
                ))
                self.datagrams_received += 1
                self.bytes_received += size
            header.msg_namelen = sizeof(sockaddr_in6)
            if self._with_local:
                header.msg_controllen = sizeof(control_buffer)

    def send(self, list datagrams not None, Py_ssize_t start=0):
        """Send datagrams from index start on, at most 64; return how many the socket took.

        Makes one system call, or two if the system refuses a run. 0 means that the socket would
        block. Fewer than given means that the next one blocks or fails: call again to learn which.

        Raises:
            OSError: The datagram at start cannot be sent, and none was.
            TypeError: It is not a pair of bytes and an address.
        """
        cdef Outgoing *outgoing = self._outgoing
        cdef int fd = self._fileno()
        cdef bint with_runs = self.is_segmenting
        cdef int count, sent, index
        cdef size_t parts
        cdef Py_ssize_t done = 0
        if start < 0 or start >= len(datagrams):
            return 0
        while True:
            count = self._fill(datagrams, start, with_runs)
            self.send_calls += 1
            sent = batch_send(fd, outgoing.messages, count)
            if sent >= 0:
                break
            if errno == EAGAIN or errno == EINTR:
                return 0
            if outgoing.messages[0].msg_hdr.msg_iovlen == 1 or (
                errno != EIO and errno != EINVAL and errno != EMSGSIZE
            ):
                raise_errno()
            # A device that cannot segment refuses a run (EIO), and so does a path with a smaller
            # MTU. One by one the datagrams may pass.
            self._refused_runs += 1
            if errno == EIO or self._refused_runs >= MAX_REFUSED_RUNS:
                self.is_segmenting = False
            with_runs = False
        for index in range(sent):
            parts = outgoing.messages[index].msg_hdr.msg_iovlen
            done += parts
            self.bytes_sent += outgoing.messages[index].msg_len
            if parts > 1:
                self.segments_sent += parts
                self._refused_runs = 0
        self.datagrams_sent += done
        return done

    cdef int _open_incoming(self) except -1:
        """Allocate the read buffers; after a failure the next read tries again."""
        cdef Incoming *incoming
        cdef int index
        if self._buffer == NULL:
            self._buffer = <unsigned char *>PyMem_Malloc(MAX_BATCH * self._max_datagram)
        incoming = <Incoming *>PyMem_Calloc(1, sizeof(Incoming))
        if incoming == NULL or self._buffer == NULL:
            PyMem_Free(incoming)
            raise MemoryError
        for index in range(MAX_BATCH):
            incoming.parts[index].iov_base = self._buffer + index * self._max_datagram
            incoming.parts[index].iov_len = self._max_datagram
            incoming.messages[index].msg_hdr.msg_iov = &incoming.parts[index]
            incoming.messages[index].msg_hdr.msg_iovlen = 1
            incoming.messages[index].msg_hdr.msg_name = &incoming.names[index]
            incoming.messages[index].msg_hdr.msg_namelen = sizeof(sockaddr_in6)
            if self._with_local:
                incoming.messages[index].msg_hdr.msg_control = &incoming.controls[index]
                incoming.messages[index].msg_hdr.msg_controllen = sizeof(control_buffer)
        self._incoming = incoming
        return 0

    cdef object _address_of(
        self, const sockaddr_in6 *name, socklen_t size, const char *local, int local_size
    ):
        """Return the address for a name: the same object as last time if it is still cached."""
        cdef Peer *peer = &self._peers[hash_name(name, size) & (self._max_peers - 1)]
        cdef object address
        if (
            peer.address != NULL
            and peer.size == size
            and memcmp(&peer.name, name, size) == 0
            and peer.local_size == local_size
            and memcmp(peer.local, local, local_size) == 0
        ):
            return <object>peer.address
        address = address_from(name)
        if local_size:
            if (
                PyBytes_GET_SIZE(self._local) != local_size
                or memcmp(PyBytes_AS_STRING(self._local), local, local_size) != 0
            ):
                self._local = PyBytes_FromStringAndSize(local, local_size)
            address = (*address, self._local)
        Py_XDECREF(peer.address)
        Py_INCREF(address)
        peer.address = <PyObject *>address
        memcpy(&peer.name, name, size)
        peer.size = size
        memcpy(peer.local, local, local_size)
        peer.local_size = local_size
        return address

    cdef int _fill(self, list datagrams, Py_ssize_t start, bint with_runs) except -1:
        """Fill the outgoing messages from start on; return how many, at least one.

        They point into the datagrams, which the list keeps alive: no Python code runs before they
        are sent.
        """
        cdef Outgoing *outgoing = self._outgoing
        cdef Py_ssize_t total = min(<Py_ssize_t>MAX_BATCH, len(datagrams) - start)
        cdef Py_ssize_t index
        cdef int count = 0
        cdef msghdr *message = NULL
        cdef size_t size
        cdef size_t segment = 0  # bytes of each datagram of the run; 0: it takes no more
        cdef size_t run_bytes = 0
        cdef object item, data, address
        cdef object last = None
        cdef const char *local
        for index in range(total):
            item = datagrams[start + index]
            if type(item) is not tuple or len(<tuple>item) != 2:
                data = None
            else:
                data = (<tuple>item)[0]
            if not PyBytes_CheckExact(data):
                if count:
                    break  # it starts the next call
                raise TypeError("a datagram is a pair of bytes and an address")
            address = (<tuple>item)[1]
            size = PyBytes_GET_SIZE(data)
            outgoing.parts[index].iov_base = PyBytes_AS_STRING(data)
            outgoing.parts[index].iov_len = size
            if (
                segment and 0 < size <= segment
                and run_bytes + size <= MAX_RUN_BYTES
                and message.msg_iovlen < MAX_SEGMENTS
                and (self._is_connected or address is last or address == last)
            ):
                message.msg_iovlen += 1
                run_bytes += size
                if message.msg_iovlen == 2:
                    set_segment(message, &outgoing.controls[count - 1], <uint16_t>segment)
                if size < segment:
                    segment = 0  # only the last datagram of a run may be shorter
                continue
            message = &outgoing.messages[count].msg_hdr
            memset(message, 0, sizeof(msghdr))
            if not self._is_connected:
                try:
                    message.msg_namelen = put_address(
                        &outgoing.names[count], address, self._family
                    )
                    if self._with_local:
                        local = local_of(address, self._family)
                        if local != NULL:
                            set_local(message, &outgoing.controls[count], self._family, local)
                except (OSError, TypeError, OverflowError):
                    if count:
                        break
                    raise
                message.msg_name = &outgoing.names[count]
            message.msg_iov = &outgoing.parts[index]
            message.msg_iovlen = 1
            segment = run_bytes = size if with_runs else 0
            last = address
            count += 1
        return count
