"""Whom a request comes from, for limits that count by visitor."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradio import Request

_IPV6_OF_ONE = 64
"""Bits that the addresses of one household or machine have in common."""


def visitor_of(request: Request) -> str:
    """Return the address that a request comes from; of IPv6, the network.

    Behind a proxy, which has an address of its own network, that is the last address in
    ``X-Forwarded-For`` from outside: what proxies add stands behind whatever a visitor wrote there.
    """
    client = getattr(request, "client", None)
    peer = str(getattr(client, "host", "") or "")
    if not _is_outside(peer):
        forwarded = str(request.headers.get("x-forwarded-for") or "").split(",")
        peer = next((hop.strip() for hop in reversed(forwarded) if _is_outside(hop)), peer)
    try:
        address = ip_address(peer.strip())
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address):
        return str(ip_network(f"{address}/{_IPV6_OF_ONE}", strict=False))
    return str(address)


def _is_outside(address: str) -> bool:
    try:
        return ip_address(address.strip()).is_global
    except ValueError:
        return False
