"""Tests speak to this machine alone: whatever would leave it is stopped where it starts, and the test fails."""

import contextlib
import ipaddress
import socket
import sys
from typing import Any

ASKED: list[str] = []
"""What was stopped since it was last looked at; libraries swallow errors of the network."""
_OWN = {"", "localhost", socket.gethostname()}


class NetworkUsed(OSError):
    """A test wanted to speak to another machine; to libraries, a network that is down."""


def _leaves(event: str, arguments: tuple[Any, ...]) -> str | None:
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event == "socket.connect" and arguments[0].family != getattr(socket, "AF_UNIX", None):
        if arguments[0].type == socket.SOCK_DGRAM:  # sends nothing: how a machine learns its own address
            return None
        host = arguments[1][0]
    else:
        return None
    name = host.decode() if isinstance(host, bytes) else host or ""
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None if name in _OWN else name
    near = address.is_private or address.is_unspecified or name in _OWN
    return None if near or event != "socket.connect" else name


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith("socket.") and (host := _leaves(event, arguments)) is not None:
        ASKED.append(f"{event} {host}")
        raise NetworkUsed(f"A test speaks to the network: {event} {host}.")


def keep_offline() -> None:
    """From now on, in this process, to its end."""
    with contextlib.suppress(OSError):
        _OWN.update(socket.gethostbyname_ex(socket.gethostname())[2])
    sys.addaudithook(_hear)
