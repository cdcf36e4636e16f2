"""CPython's floor under TLS: the bare loop over `ssl.SSLObject` and two memory BIOs."""

from __future__ import annotations

import select
import socket
import ssl

from common import BACKLOG, CHUNK, HOST, announce, arguments


class Session:
    """One connection: bytes in, through the TLS object, and out."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        self.connection = connection
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.advance = self.shake_hands

    def handle(self) -> bool:
        """Take what has come; whether the connection goes on."""
        data = self.connection.recv(CHUNK)
        if not data:
            return False
        self.incoming.write(data)
        going_on = self.advance()
        if self.outgoing.pending:
            self.flush()
        return going_on

    def flush(self) -> None:
        data = self.outgoing.read()
        sent = self.connection.send(data)
        if sent < len(data):  # no workload holds a buffer full for long
            self.connection.setblocking(True)
            self.connection.sendall(memoryview(data)[sent:])
            self.connection.setblocking(False)

    def shake_hands(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return True
        self.advance = self.echo
        return self.echo()

    def echo(self) -> bool:
        try:
            while data := self.tls.read(CHUNK):
                self.tls.write(data)
        except ssl.SSLWantReadError:
            return True
        self.say_goodbye()
        return False

    def say_goodbye(self) -> None:
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass  # the other side has closed already


def main() -> None:
    context = arguments().context
    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # children inherit it
    poller = select.epoll()
    poller.register(listener, select.EPOLLIN)
    sessions: dict[int, Session] = {}
    announce(listener.getsockname()[1])
    while True:
        for descriptor, _ in poller.poll():
            session = sessions.get(descriptor)
            if session is None:
                connection, _ = listener.accept()
                connection.setblocking(False)
                sessions[connection.fileno()] = Session(connection, context)
                poller.register(connection, select.EPOLLIN)
            elif not session.handle():
                del sessions[descriptor]
                session.connection.close()


main()
