"""The floor: blocking sockets, so one after the other only."""

from __future__ import annotations

import socket

from common import BYTE, HOST, PORT, Stopwatch, check, warm_up


def visit_repeatedly(stopwatch: Stopwatch) -> Stopwatch:
    while stopwatch.going_on():
        with socket.create_connection((HOST, PORT)) as connection:
            connection.sendall(BYTE)
            check(connection.recv(1))
    return stopwatch


visit_repeatedly(warm_up())
visit_repeatedly(Stopwatch()).report()
