"""CPython's floor: one loop over an epoll object, level-triggered, and nothing else."""

from __future__ import annotations

import select
import socket

from common import BACKLOG, CHUNK, HOST, NUMBER, announce, arguments, blocks


def echo(connection: socket.socket) -> bool:
    """Echo what is there; whether the connection goes on."""
    data = connection.recv(CHUNK)
    if not data:
        return False
    sent = connection.send(data)
    if sent < len(data):
        send_rest(connection, memoryview(data)[sent:])
    return True


def send_rest(connection: socket.socket, data: memoryview) -> None:
    """Wait for room: no workload holds a buffer full for long."""
    connection.setblocking(True)
    connection.sendall(data)
    connection.setblocking(False)


def sink(connection: socket.socket) -> bool:
    data = connection.recv(CHUNK)
    counts[connection] = counts.get(connection, 0) + len(data)
    if not data:
        connection.send(NUMBER.pack(counts.pop(connection)))
    return bool(data)


def source(connection: socket.socket) -> bool:
    (size,) = NUMBER.unpack(connection.recv(NUMBER.size))
    connection.setblocking(True)  # one transfer at a time, so the loop may wait in it
    for block in blocks(size):
        connection.sendall(block)
    return False


HANDLERS = {"echo": echo, "sink": sink, "source": source}
counts: dict[socket.socket, int] = {}


def accept_all(
    listener: socket.socket, poller: select.epoll, connections: dict[int, socket.socket]
) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        connections[connection.fileno()] = connection
        poller.register(connection, select.EPOLLIN)


def main() -> None:
    handler = HANDLERS[arguments().role]
    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    listener.setblocking(False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # children inherit it
    poller = select.epoll()
    poller.register(listener, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    announce(listener.getsockname()[1])
    while True:
        for descriptor, _ in poller.poll():
            connection = connections.get(descriptor)
            if connection is None:
                accept_all(listener, poller, connections)
            elif not handler(connection):
                del connections[descriptor]
                connection.close()


main()
