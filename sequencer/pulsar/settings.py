"""How to reach a cluster: addresses, credentials, and the limits of waiting."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

DEFAULT_PORTS = {"pulsar": 6650, "pulsar+ssl": 6651}
"""Ports by URL scheme, for URLs without one."""


class Auth(NamedTuple):
    """Credentials: the name of the method, and how to get them fresh, at each connect and each challenge."""

    method: str
    data: Callable[[], bytes]


NO_AUTH = Auth("none", lambda: b"")


def token_auth(token: str | Callable[[], str]) -> Auth:
    """Authentication with a (JSON web) token, or with whatever token a callable returns when it is needed.

    The callable runs on the event loop: it may read a file, it must not wait for a network.
    """
    if isinstance(token, str):
        fixed = token.encode()
        return Auth("token", lambda: fixed)
    fresh = token
    return Auth("token", lambda: fresh().encode())


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Limits of waiting, in seconds, and TLS.

    Attributes:
        request_timeout_s: for the answer to any one request and the receipt of any one SEND.
        connect_timeout_s: from the first packet to the end of the handshake.
        keep_alive_s: between two PINGs.
        silent_limit_s: a connection from which nothing came for so long is dropped.
        retry_for_s: how long to go on asking a broker or coordinator that is not ready yet.
        tls: for pulsar+ssl://; None means the system's certificate authorities.
    """

    request_timeout_s: float = 30.0
    connect_timeout_s: float = 10.0
    keep_alive_s: float = 10.0
    silent_limit_s: float = 30.0
    retry_for_s: float = 10.0
    tls: ssl.SSLContext | None = None


class Address(NamedTuple):
    """Where a broker or proxy listens."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_service_url(url: str) -> list[Address]:
    """The addresses in a service URL: pulsar://host[:port][,host[:port]...] or pulsar+ssl://...

    Raises:
        ValueError: it is not such a URL.
    """
    scheme, separator, hosts = url.partition("://")
    if not separator or scheme not in DEFAULT_PORTS:
        raise ValueError(f"not a pulsar:// or pulsar+ssl:// URL: {url!r}")
    addresses = []
    for part in hosts.rstrip("/").split(","):
        try:
            split = urlsplit(f"//{part}")
            host, port = split.hostname, split.port
        except ValueError as wrong:
            raise ValueError(f"not a host and port in {url!r}: {wrong}") from None
        if not host or split.path or split.query or split.username is not None:
            raise ValueError(f"not a host and port in {url!r}: {part!r}")
        addresses.append(Address(host, port or DEFAULT_PORTS[scheme], scheme == "pulsar+ssl"))
    return addresses
