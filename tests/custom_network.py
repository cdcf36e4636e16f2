"""A network in memory, under Trio's hook for socket factories: streams without descriptors."""

from __future__ import annotations

import errno
import os
import socket

import trio

BUFFER = 256


class Network(trio.abc.SocketFactory):
    """What `trio.socket.set_custom_socket_factory` takes."""

    def __init__(self):
        self.listeners = {}
        self.open = set()
        self.refuse_options = False
        self.fail_close = False
        self.fail_accept = False
        self.ports = iter(range(40000, 50000))

    def socket(self, family=socket.AF_INET, type=socket.SOCK_STREAM, proto=0):
        made = MemorySocket(self, family, type, proto)
        self.open.add(made)
        return made

    def reset(self, stream):
        """Let the stream's next call find its connection reset."""
        stream.socket.error = errno.ECONNRESET
        stream.socket.receiving.lose()


class Pipe:
    """One direction of a connection, which holds so many bytes."""

    def __init__(self):
        self.held = bytearray()
        self.ended = False
        self.lost = False
        self.changed = trio.lowlevel.ParkingLot()

    async def put(self, data):
        # As Trio's own sockets: what can be done at once is, and then comes the checkpoint.
        waited = False
        while len(self.held) >= BUFFER and not (self.lost or self.ended):
            waited = True
            await self.changed.park()
        if self.lost:
            raise _error(errno.EPIPE)
        taken = data[: BUFFER - len(self.held)]
        self.held += taken
        self.changed.unpark_all()
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return len(taken)

    async def get(self, size):
        waited = False
        while not self.held and not self.ended:
            waited = True
            await self.changed.park()
        data = bytes(self.held[:size])
        del self.held[:size]
        self.changed.unpark_all()
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return data

    def end(self):
        self.ended = True
        self.changed.unpark_all()

    def lose(self):
        self.lost = True
        self.end()


class MemorySocket(trio.socket.SocketType):
    """One end of a connection, or a listener."""

    def __init__(self, network, family, type, proto):
        self.network = network
        self._family, self._type, self._proto = family, type, proto
        self.name = ("0.0.0.0", 0)
        self.peer = None
        self.error = None
        self.writing_ended = False
        self.closed = False

    family = property(lambda self: self._family)
    type = property(lambda self: self._type)
    proto = property(lambda self: self._proto)
    did_shutdown_SHUT_WR = property(lambda self: self.writing_ended)

    def __repr__(self):
        return f"<memory socket on {self.name}>"

    def fileno(self):
        raise AssertionError("there is no descriptor")

    def setsockopt(self, level, name, value, length=None):
        if self.network.refuse_options:
            raise _error(errno.EINVAL)

    def getsockopt(self, level, name, size=0):
        return 0 if not size else bytes(size)

    def getsockname(self):
        return self.name

    def getpeername(self):
        if self.peer is None:
            raise _error(errno.ENOTCONN)
        return self.peer_name

    def close(self):
        if self.closed:
            return
        self.closed = True
        self.network.open.discard(self)
        if self.network.listeners.get(self.name) is self:
            del self.network.listeners[self.name]
            self.accepting.cancel()
        if self.peer is not None:
            self.sending.end()
            self.receiving.lose()
        if self.network.fail_close:
            raise _error(errno.EIO)

    async def bind(self, address):
        await trio.lowlevel.checkpoint()
        self.name = address

    def listen(self, backlog=None):
        self.queue_in, self.queue_out = trio.open_memory_channel(100)
        self.accepting = trio.CancelScope()
        self.network.listeners[self.name] = self

    async def accept(self):
        if self.network.fail_accept:
            raise _error(errno.EMFILE)
        self.accepting = trio.CancelScope()
        with self.accepting:
            child = await self.queue_out.receive()
            return child, child.peer_name
        raise trio.ClosedResourceError

    async def connect(self, address):
        await trio.lowlevel.checkpoint()
        listener = self.network.listeners.get(address)
        if listener is None:
            raise _error(errno.ECONNREFUSED)
        child = self.network.socket(self._family, self._type)
        if not self.name[1]:
            self.name = ("192.0.2.2", next(self.network.ports))
        child.name = address
        for one, other in ((self, child), (child, self)):
            one.peer, one.peer_name = other, other.name
            one.sending = other.receiving = Pipe()
        listener.queue_in.send_nowait(child)

    async def send(self, data, flags=0):
        self._check()
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            return await self.sending.put(bytes(data))
        finally:
            if self.closed:
                raise trio.ClosedResourceError

    async def recv(self, size, flags=0):
        self._check()
        await trio.lowlevel.checkpoint_if_cancelled()
        data = await self.receiving.get(size)
        if self.closed:
            raise trio.ClosedResourceError
        return data

    def _check(self):
        if self.error:
            number, self.error = self.error, None
            raise _error(number)

    def shutdown(self, how):
        if how != socket.SHUT_RD:
            self.writing_ended = True
            self.sending.end()

    async def wait_writable(self):
        await trio.lowlevel.checkpoint()


def _error(number):
    return OSError(number, os.strerror(number))
