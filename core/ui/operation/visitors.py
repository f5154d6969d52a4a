"""Whom a request comes from, for limits that count by visitor."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradio import Request
    from starlette.types import Scope

_IPV6_OF_ONE = 64
"""Bits that the addresses of one household or machine have in common."""


def visitor_of(request: Request) -> str:
    """Return the address that a request comes from; of IPv6, the network.

    The front door has put the visitor's address in the place of a trusted proxy's.
    """
    client = getattr(request, "client", None)
    return network_of(str(getattr(client, "host", "") or ""))


def network_of(address: str) -> str:
    """Return an address as limits count it: of IPv6 the network, ``unknown`` if it is none."""
    try:
        found = ip_address(address.strip())
    except ValueError:
        return "unknown"
    if isinstance(found, IPv6Address):
        return str(ip_network(f"{found}/{_IPV6_OF_ONE}", strict=False))
    return str(found)


def address_behind_proxies(scope: Scope) -> str:
    """Return the visitor's address where a proxy that can be trusted passes requests on.

    That is the last address in ``X-Forwarded-For`` from outside: what proxies add stands behind
    whatever a visitor wrote there. A peer that is itself outside is no proxy of ours.
    """
    peer = peer_of(scope)
    if _is_outside(peer):
        return peer
    values = [value for key, value in scope["headers"] if key == b"x-forwarded-for"]
    hops = b",".join(values).decode("latin-1").split(",")
    return next((hop.strip() for hop in reversed(hops) if _is_outside(hop)), peer)


def peer_of(scope: Scope) -> str:
    """Return the address at the other end of a request's connection, "" if there is none."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _is_outside(address: str) -> bool:
    try:
        return ip_address(address.strip()).is_global
    except ValueError:
        return False
