"""Images at an address: from hosts that somebody has allowed, and from no private network.

A name is resolved once, and the connection goes to the address that was checked: a name that means
another machine a moment later leads nowhere else. Every redirect is checked like the first address.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Sequence
from urllib.parse import SplitResult, urljoin, urlsplit

from ..errors import ModelError, first_line
from .sources import BYTES

SECONDS = 10.0  # of one image, with its redirects
REDIRECTS = 3
ANY = "*"
_PIECE = 1 << 16


class Fetcher:
    """Fetches images from some hosts; as ``Sources.fetch``.

    Args:
        domains: the hosts, ``*`` for any; a host's own subdomains are other hosts.
    """

    def __init__(self, domains: Sequence[str]) -> None:
        self._domains = frozenset(domain.lower() for domain in domains)

    def __call__(self, where: str, address: str) -> bytes:
        """The bytes at an address.

        Raises:
            ModelError: not allowed, not there, too large or too slow; names the part.
        """
        end = time.monotonic() + SECONDS
        try:
            for _ in range(REDIRECTS + 1):
                data, address = self._answer(where, address, end)
                if data is not None:
                    return data
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, ModelError):
                raise
            problem = f"{where} cannot be fetched: {first_line(error)}"
            raise ModelError(problem, "send its data") from None
        raise ModelError(f"{where} is redirected more than {REDIRECTS} times", "send its data")

    def _answer(self, where: str, address: str, end: float) -> tuple[bytes | None, str]:
        """The bytes at an address; or None, and where to look instead."""
        url = urlsplit(address)
        host = self._allowed(where, url)
        connection = _connection(where, url, host, end)
        try:
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "descant"})
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308):
                return None, urljoin(address, answer.headers.get("location", ""))
            if answer.status != 200:
                problem = f"{where} cannot be fetched: its host answers {answer.status}"
                raise ModelError(problem, "send its data")
            data = bytearray()
            while piece := answer.read1(_PIECE):
                data += piece
                if len(data) > BYTES:
                    problem = f"{where} has more than {BYTES >> 20} MB"
                    raise ModelError(problem, "make the image smaller")
                if time.monotonic() > end:
                    problem = f"{where} takes more than {SECONDS:g} seconds to fetch"
                    raise ModelError(problem, "send its data")
            return bytes(data), address
        finally:
            connection.close()

    def _allowed(self, where: str, url: SplitResult) -> str:
        """The host of an address that may be fetched."""
        host = (url.hostname or "").lower()
        if url.scheme not in ("http", "https") or not host or url.username or url.password:
            raise ModelError(f"{where} has no address of http or https", "send its data")
        if host not in self._domains and ANY not in self._domains:
            problem = f"{where} is at {host[:60]}, and nothing is fetched from there"
            cure = "send its data, as data:image/png;base64,…; whoever starts this may allow hosts"
            raise ModelError(problem, f"{cure}: allowed_media_domains")
        return host


def _connection(where: str, url: SplitResult, host: str, end: float) -> http.client.HTTPConnection:
    """An open connection to a host, at a public address of it."""
    port = url.port or (443 if url.scheme == "https" else 80)
    records = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not records or not all(_is_public(str(each[4][0])) for each in records):
        raise ModelError(f"{where} is at a private address", "send its data")
    left = max(0.1, end - time.monotonic())
    connection = http.client.HTTPConnection(host, port, timeout=left)
    connection.sock = socket.create_connection((str(records[0][4][0]), port), timeout=left)
    if url.scheme == "https":
        context = ssl.create_default_context()
        connection.sock = context.wrap_socket(connection.sock, server_hostname=host)
    return connection


def _is_public(address: str) -> bool:
    """Whether an address is of the internet, and of no machine or network of one's own."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_global and not ip.is_multicast
