"""DNS look-ups in separate threads, and the check whether an address is on the public internet."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

Resolver: TypeAlias = Callable[[str, int], Awaitable[list[str]]]

# A thread cannot be interrupted while the system's resolver waits for a server that does not respond, so slow names
# must not take the threads of anything else.
_THREADS: Final = ThreadPoolExecutor(max_workers=32, thread_name_prefix="dns")
_UNICAST6: Final = ipaddress.IPv6Network("2000::/3")  # all that is routed on the internet
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address in its last four bytes


async def resolve_host(host: str, port: int) -> list[str]:
    """All addresses of a host by the system's resolver, in its order of preference; raises OSError, UnicodeError."""

    def look_up() -> list[str]:
        return [str(sockaddr[0]) for *_, sockaddr in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]

    return await asyncio.get_running_loop().run_in_executor(_THREADS, look_up)


def is_public(address: str) -> bool:
    """Whether an address is on the internet: not private, loopback, link-local, shared, multicast or a mapped one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        # 6to4 and Teredo carry an IPv4 address of the caller's choice
        if ip not in _UNICAST6 or ip.sixtofour is not None or ip.teredo is not None:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved
