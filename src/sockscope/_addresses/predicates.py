"""What `ipaddress` does not say about a host."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from sockscope._addresses.designators import HostLike, parse_host
from sockscope._addresses.values import InternetAddress

_SOLICITED_NODES = IPv6Network("ff02::1:ff00:0/104")

# RFC 4291, 2.7 and RFC 7346; what is not here is unassigned.
_IPV6_SCOPES = {
    0x0: "reserved",
    0x1: "interface-local",
    0x2: "link-local",
    0x3: "realm-local",
    0x4: "admin-local",
    0x5: "site-local",
    0x8: "organization-local",
    0xE: "global",
    0xF: "reserved",
}
# RFC 2365, 8, and RFC 5771; the first network that has the address tells.
_IPV4_SCOPES = (
    (IPv4Network("224.0.0.0/24"), "link-local"),
    (IPv4Network("239.255.0.0/16"), "site-local"),
    (IPv4Network("239.192.0.0/14"), "organization-local"),
    (IPv4Network("239.0.0.0/8"), "admin-local"),
    (IPv4Network("224.0.0.0/4"), "global"),
)


def is_ipv4_mapped(host: HostLike | InternetAddress) -> bool:
    """Whether this is an IPv6 address with an IPv4 one inside, ``::ffff:a.b.c.d`` (RFC 4291).

    Args:
      host: an address, with or without a port; a literal, never a name.

    Raises:
      ValueError, TypeError: *host* is no address.
    """
    address = _literal(host)
    return isinstance(address, IPv6Address) and address.ipv4_mapped is not None


def is_solicited_node(host: HostLike | InternetAddress) -> bool:
    """Whether this is a solicited-node multicast address, ``ff02::1:ffXX:XXXX`` (RFC 4291, 2.7.1).

    Args:
      host: an address, with or without a port; a literal, never a name.

    Raises:
      ValueError, TypeError: *host* is no address.
    """
    return _literal(host) in _SOLICITED_NODES


def multicast_scope(host: HostLike | InternetAddress) -> str | None:
    """How far a multicast address reaches, or None for an address that is not multicast.

    Args:
      host: an address, with or without a port; a literal, never a name.

    Returns:
      For IPv6 (RFC 4291 and 7346) ``"interface-local"``, ``"link-local"``,
      ``"realm-local"``, ``"admin-local"``, ``"site-local"``, ``"organization-local"``,
      ``"global"``, ``"reserved"`` or ``"unassigned"``; for IPv4 (RFC 2365) one of these
      where it has the like: the local block 224.0.0.0/24 is ``"link-local"``, and of
      239.0.0.0/8, which is administrative, what no smaller scope has is ``"admin-local"``.

    Raises:
      ValueError, TypeError: *host* is no address.
    """
    address = _literal(host)
    if not address.is_multicast:
        return None
    if isinstance(address, IPv6Address):
        return _IPV6_SCOPES.get(address.packed[1] & 0xF, "unassigned")
    return next(scope for network, scope in _IPV4_SCOPES if address in network)


def _literal(host: HostLike | InternetAddress) -> IPv4Address | IPv6Address:
    if isinstance(host, InternetAddress):
        return host.host
    found = parse_host(host)
    if isinstance(found, str):
        raise ValueError(f"host must be an address, not the name {found!r}")
    return found[0]
