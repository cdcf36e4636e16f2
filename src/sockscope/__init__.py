"""Nursery-scoped sockets for Trio.

Every socket has an owner scope, every wait has a deadline, every option is declared.

A map of the package, in the order in which a connection is born; each room imports
only from those before it:

- ``_core``: errors, and helpers a few lines long;
- ``_addresses``: address values, designators, look-ups, network interfaces;
- ``_options``: the table of socket options, and what is driven by it;
- ``_sockets``: streams, passive sockets, datagrams: how they wait, send, receive, end;
- ``_tls``: TLS over any stream;
- ``_open``: `make_socket` and `open_socket`, Happy Eyeballs, descriptors;
- ``_serve``: `serve_passive` and the `Server`;
- ``_cli``: ``python -m sockscope``.

Public submodules: `sockscope.buffered` (records, lines, text) and `sockscope.testing`.
"""

import types as _types

from sockscope._addresses.designators import AddressLike, HostLike
from sockscope._addresses.interfaces import (
    InterfaceAddress,
    NetworkInterface,
    network_interface,
    network_interfaces,
)
from sockscope._addresses.lookups import (
    HostInfo,
    Protocol,
    Service,
    lookup_host,
    lookup_protocol,
    lookup_service,
)
from sockscope._addresses.predicates import is_ipv4_mapped, is_solicited_node, multicast_scope
from sockscope._addresses.resolve import resolve
from sockscope._addresses.values import Address, InternetAddress, LocalAddress
from sockscope._core.errors import (
    AcceptTimeoutError,
    ConnectError,
    ConnectTimeoutError,
    DatagramError,
    HandshakeError,
    HandshakeTimeoutError,
    NameNotFoundError,
    OptionError,
    ReceiveTimeoutError,
    ResolverError,
    SendTimeoutError,
    SocketError,
    SocketTimeoutError,
    TemporaryResolverError,
    TruncatedError,
    UnknownInterfaceError,
    UnknownOptionError,
    UnknownProtocolError,
    UnknownServiceError,
    UnsupportedOptionError,
    WrongSocketError,
)
from sockscope._open.activation import activated_sockets
from sockscope._open.descriptors import socket_from_fd, socket_pair
from sockscope._open.open import make_socket, open_socket
from sockscope._open.sockets import ConfigureContext
from sockscope._open.upgrade import chain
from sockscope._options.features import Features, features, supports
from sockscope._options.report import OptionResult, Report
from sockscope._options.value_types import (
    BufferLock,
    DeadPeer,
    KeepAlive,
    Linger,
    MemoryInfo,
    PathMTUDiscovery,
    PeerCredentials,
    TcpInfo,
    TransmitTime,
)
from sockscope._options.values import SocketOptions
from sockscope._serve.accept_connection import accept_connection
from sockscope._serve.datagram_server import DatagramServer, DatagramServerStatistics
from sockscope._serve.datagram_session import DatagramSession
from sockscope._serve.datagrams import serve_datagrams
from sockscope._serve.serve import serve, serve_passive
from sockscope._serve.server import Server, current_server
from sockscope._serve.statistics import ListenerStatistics, ServerStatistics
from sockscope._sockets.datagram import DatagramSocket
from sockscope._sockets.datagram_types import Datagram, DatagramSocketStatistics
from sockscope._sockets.passive import PassiveSocket, PassiveStatistics
from sockscope._sockets.stream import StreamSocket
from sockscope._sockets.stream_state import StreamStatistics
from sockscope._tls.client_hello import ClientHello
from sockscope._tls.stream import TLSStream
from sockscope._tls.upgrade import tls_upgrade

__all__ = [
    "AcceptTimeoutError",
    "Address",
    "AddressLike",
    "BufferLock",
    "ClientHello",
    "ConfigureContext",
    "ConnectError",
    "DatagramError",
    "ConnectTimeoutError",
    "Datagram",
    "DatagramServer",
    "DatagramServerStatistics",
    "DatagramSession",
    "DatagramSocket",
    "DatagramSocketStatistics",
    "DeadPeer",
    "Features",
    "HandshakeError",
    "HandshakeTimeoutError",
    "HostInfo",
    "HostLike",
    "InterfaceAddress",
    "InternetAddress",
    "KeepAlive",
    "Linger",
    "ListenerStatistics",
    "LocalAddress",
    "MemoryInfo",
    "NameNotFoundError",
    "NetworkInterface",
    "OptionError",
    "OptionResult",
    "PassiveSocket",
    "PassiveStatistics",
    "PathMTUDiscovery",
    "PeerCredentials",
    "Protocol",
    "ReceiveTimeoutError",
    "Report",
    "ResolverError",
    "SendTimeoutError",
    "Server",
    "ServerStatistics",
    "Service",
    "SocketError",
    "SocketOptions",
    "SocketTimeoutError",
    "StreamSocket",
    "StreamStatistics",
    "TLSStream",
    "TcpInfo",
    "TemporaryResolverError",
    "TransmitTime",
    "TruncatedError",
    "UnknownInterfaceError",
    "UnknownOptionError",
    "UnknownProtocolError",
    "UnknownServiceError",
    "UnsupportedOptionError",
    "WrongSocketError",
    "accept_connection",
    "activated_sockets",
    "chain",
    "current_server",
    "features",
    "is_ipv4_mapped",
    "is_solicited_node",
    "lookup_host",
    "lookup_protocol",
    "lookup_service",
    "make_socket",
    "multicast_scope",
    "network_interface",
    "network_interfaces",
    "open_socket",
    "resolve",
    "serve",
    "serve_datagrams",
    "serve_passive",
    "socket_from_fd",
    "socket_pair",
    "supports",
    "tls_upgrade",
]

# What users see lives where they find it, in messages, pickles and the documentation.
for _value in [globals()[name] for name in __all__]:
    if isinstance(_value, (type, _types.FunctionType)):
        _value.__module__ = __name__
