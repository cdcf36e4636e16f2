"""What every measured server shares: its arguments, and how it says that it is ready.

A server has one of three roles. ``echo`` sends back what it gets. ``sink`` counts what it
gets until the end and answers with the number, 8 bytes. ``source`` is asked for a number of
bytes, 8 bytes too, sends so many, 0 1 2 ... 255 over and over, and closes.
"""

from __future__ import annotations

import argparse
import resource
import ssl
import struct

HOST = "127.0.0.1"
BACKLOG = 4096
CHUNK = 65536
NUMBER = struct.Struct("!Q")
BLOCK = bytes(range(256)) * (CHUNK // 256)


def arguments() -> argparse.Namespace:
    """Read the command line, and take as many descriptors as the hard limit allows.

    Returns:
        ``role``, ``loop`` (a module with a ``run``: asyncio or uvloop), ``layer`` and
        ``context`` (an `ssl.SSLContext`, None without ``--tls``).
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("echo", "sink", "source"))
    parser.add_argument("--loop", default="asyncio", choices=("asyncio", "uvloop"))
    parser.add_argument("--layer", default="serve_passive")
    parser.add_argument("--tls", metavar="CHAIN.PEM", help="certificate and key in one file")
    namespace = parser.parse_args()
    namespace.context = server_context(namespace.tls) if namespace.tls else None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return namespace


def server_context(chain: str) -> ssl.SSLContext:
    """Every server's TLS: the standard library's own defaults."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    return context


def announce(port: int) -> None:
    """Tell the harness where to connect: from now on connections are served."""
    print(port, flush=True)


def blocks(size: int) -> list[bytes]:
    """What a source sends for a request of `size` bytes: the same block again and again."""
    whole, rest = divmod(size, CHUNK)
    return [BLOCK] * whole + [BLOCK[:rest]] * bool(rest)
