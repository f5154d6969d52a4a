"""Pictures that a row names by an address: which are fetched, from where, and for how long.

A row is untrusted text. It must not make the builder read a file of the own disk or a page of
the own network, nor a private repository that the builder may see: what is read is published.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit
from zipfile import BadZipFile

import httpcore

from core.errors import ImageError, SourceError

if TYPE_CHECKING:
    from precompute.sources.types import Opener

_MOST_REDIRECTS = 5
_FAILURES_IN_A_ROW = 3
"""As often a host may fail before it is asked no more."""
_CHUNK_BYTES = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
_TIMEOUTS = ("connect", "read", "write", "pool")
_NO_ANSWER = (429, 500, 502, 503, 504)
_HEADERS = [
    ("User-Agent", "TwoLens/1 (builds image search galleries)"),
    ("Accept", "image/*, */*"),
]
_NOT_VALID = "is named by an address that is not valid"
_HUB_FILE = re.compile(r"\A(?:zip://(?:(?!::).)*::)?(?P<file>hf://(?:(?!::).)*)\Z", re.DOTALL)
"""A file in a repository, or in a zip there, as ``datasets`` names them."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class _RefusedError(Exception):
    """An address that is not fetched; the text is worded as an ImageError's reason."""


class _FailedError(Exception):
    """A host that did not answer as it should; worded likewise."""


class _BrokenError(_FailedError):
    """A connection that ended before the answer did."""


@dataclass(slots=True)
class _Host:
    """How a host has answered so far."""

    served: int = 0
    failed_in_a_row: int = 0


class RemoteFiles:
    """The addresses of one source, fetched over few connections by any number of threads.

    Args:
        repositories: Ids under which the Hub knows the dataset that is read: files of another
            repository are read as anybody may, without the builder's token.
        limit_s: Seconds in which a picture must have arrived, whatever its server does.
        private: Whether addresses of private networks are fetched too.
    """

    def __init__(
        self, repositories: Iterable[str] = (), *, limit_s: float = 30, private: bool = False
    ) -> None:
        """Open no connection."""
        self._repositories = {each.casefold() for each in repositories}
        self._limit_s = limit_s
        self._backend = _GuardedBackend(private)
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    def open(self, address: str, file_name: str) -> tuple[Opener | None, str]:
        """Return what fetches an address, or None and why it is not fetched.

        Only ``http``, ``https`` and ``hf`` are: other schemes name files of this machine, or
        services that the builder is signed in to.
        """
        if address.lower().startswith(("http://", "https://")):
            return _WebFile(self, address, file_name), ""
        hub = _HUB_FILE.match(address)
        if hub is not None:
            return _HubFile(address, file_name, self._token_for(hub["file"])), ""
        return None, "is named by an address that is not http, https or hf"

    def _token_for(self, address: str) -> bool | None:
        inside = address[len("hf://") :].casefold()
        own = tuple(f"datasets/{name}{end}" for name in self._repositories for end in "@/")
        return None if inside.startswith(own) and ".." not in inside.split("/") else False

    @cached_property
    def _pool(self) -> httpcore.ConnectionPool:
        import httpx

        return httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(), network_backend=self._backend
        )

    def fetch(self, address: str, file_name: str, max_bytes: int) -> bytes:
        """Return a page's content, at most one byte more than the limit.

        Raises:
            ImageError: It cannot be had.
            SourceError: Its host, which has answered before, does so no more.
        """
        try:
            host = urlsplit(address).netloc.rpartition("@")[2]
        except ValueError as error:
            raise ImageError(file_name, _NOT_VALID) from error
        with self._lock:
            known = self._hosts.setdefault(host, _Host())
            if known.failed_in_a_row >= _FAILURES_IN_A_ROW:
                raise ImageError(file_name, f"cannot be fetched ({host} does not answer)")
        try:
            content = self._get(address, max_bytes)
        except _RefusedError as refusal:
            self._tell(known, host, answered=True, reason="")
            raise ImageError(file_name, str(refusal)) from refusal
        except _FailedError as failure:
            self._tell(known, host, answered=False, reason=str(failure))
            raise ImageError(file_name, f"cannot be fetched ({failure})") from failure
        self._tell(known, host, answered=True, reason="")
        return content

    def _tell(self, known: _Host, host: str, *, answered: bool, reason: str) -> None:
        with self._lock:
            if answered:
                known.served += 1
                known.failed_in_a_row = 0
                return
            known.failed_in_a_row += 1
            if known.served and known.failed_in_a_row == _FAILURES_IN_A_ROW:
                raise SourceError(
                    f"{host} stopped answering after {known.served:,} pictures ({reason}). "
                    "Finished shards are kept: give the same command again once it answers."
                )

    def _get(self, address: str, max_bytes: int) -> bytes:
        _ = self._pool  # made before the time runs
        with self._backend.within(self._limit_s):
            for _ in range(_MOST_REDIRECTS + 1):
                try:
                    answer = self._one(address, max_bytes)
                except _BrokenError:
                    # A server may close a kept connection just as it is used again.
                    answer = self._one(address, max_bytes)
                if isinstance(answer, bytes):
                    return answer
                address = _joined(address, answer)
                if not address.lower().startswith(("http://", "https://")):
                    raise _RefusedError("cannot be fetched (it leads to another scheme)")
        raise _RefusedError(f"cannot be fetched (more than {_MOST_REDIRECTS} redirects)")

    def _one(self, address: str, max_bytes: int) -> bytes | str:
        """Return the content of one address, or where it leads."""
        try:
            with self._pool.stream(
                "GET",
                _ascii(address),
                headers=_HEADERS,
                extensions={"timeout": dict.fromkeys(_TIMEOUTS, self._limit_s)},
            ) as response:
                if response.status in _REDIRECTS:
                    headers = {name.lower(): value for name, value in response.headers}
                    return headers.get(b"location", b"").decode("latin-1")
                if response.status in _NO_ANSWER:
                    raise _FailedError(f"its server answers {response.status}")
                if response.status != 200:
                    raise _RefusedError(f"cannot be fetched (its server answers {response.status})")
                content = bytearray()
                for chunk in response.iter_stream():
                    content += chunk
                    if len(content) > max_bytes:
                        break
                return bytes(content[: max_bytes + 1])
        except httpcore.TimeoutException as error:
            raise _FailedError(f"it did not arrive within {self._limit_s:g} seconds") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            reason = " ".join(str(error).split())[:100] or "the connection broke"
            raise _BrokenError(reason) from error
        except (httpcore.UnsupportedProtocol, ValueError) as error:
            raise _RefusedError(_NOT_VALID) from error


def _joined(address: str, place: str) -> str:
    try:
        return urljoin(address, place)
    except ValueError as error:
        raise _RefusedError(_NOT_VALID) from error


def _ascii(address: str) -> str:
    """Return an address as it is sent: letters beyond ASCII and blanks in percent signs."""
    import httpx

    try:
        return str(httpx.URL(address.strip()))
    except httpx.InvalidURL as error:
        raise _RefusedError(_NOT_VALID) from error


@dataclass(frozen=True, slots=True)
class _WebFile:
    """An http address."""

    files: RemoteFiles
    address: str
    file_name: str

    def __call__(self, max_bytes: int) -> bytes:
        return self.files.fetch(self.address, self.file_name, max_bytes)


@dataclass(frozen=True, slots=True)
class _HubFile:
    """A file in a repository of the Hub, or in a zip there."""

    address: str
    file_name: str
    token: bool | None

    def __call__(self, max_bytes: int) -> bytes:
        from datasets import DownloadConfig
        from datasets.utils.file_utils import xopen
        from huggingface_hub.errors import HTTPError

        try:
            config = DownloadConfig(token=self.token)
            with xopen(self.address, "rb", download_config=config) as file:
                return bytes(file.read(max_bytes + 1))
        except (FileNotFoundError, PermissionError, KeyError, ValueError, BadZipFile) as error:
            raise ImageError(self.file_name, "cannot be fetched") from error
        except (OSError, RuntimeError, HTTPError) as error:
            status = getattr(getattr(error, "response", None), "status_code", 0)
            if 400 <= status < 500 and status not in _NO_ANSWER:
                reason = f"cannot be fetched (the Hub answers {status})"
                raise ImageError(self.file_name, reason) from error
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise SourceError(
                f"{self.file_name} could not be fetched from the Hub ({reason}). Finished shards "
                "are kept: give the same command again once the Hub can be reached."
            ) from error


class _GuardedBackend(httpcore.NetworkBackend):
    """Connects to public addresses alone, and ends what lasts longer than its thread may wait.

    The address is checked where the connection is made, so neither a redirect nor a name that
    answers differently the second time leads elsewhere.
    """

    def __init__(self, private: bool) -> None:
        self._private = private
        self._inner = httpcore.SyncBackend()
        self._own = threading.local()

    def within(self, limit_s: float) -> _GuardedBackend:
        """Let all that this thread does next end after so many seconds, together."""
        self._own.deadline = time.monotonic() + limit_s
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._own.deadline = None

    def left(self) -> float:
        """Return the seconds that this thread has left.

        Raises:
            httpcore.ReadTimeout: None.
        """
        left = float(self._own.deadline - time.monotonic())
        if left <= 0:
            raise httpcore.ReadTimeout
        return left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of a host that lets itself be connected to."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"there is no host {host}") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self._private and not all(map(is_public, addresses)):
            raise _RefusedError(
                f"is not fetched: {host} is in a private network "
                "(TWOLENS_FETCH_PRIVATE=1 allows it)"
            )
        for address in addresses:
            try:
                stream = self._inner.connect_tcp(address, port, timeout=min(10, self.left()))
                return _TimedStream(stream, self)
            except httpcore.NetworkError as error:
                failure = error
        raise failure


class _TimedStream(httpcore.NetworkStream):
    """A connection whose every wait ends with the time that its thread has left."""

    def __init__(self, inner: httpcore.NetworkStream, backend: _GuardedBackend) -> None:
        self._inner = inner
        self._backend = backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._backend.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._backend.left())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        inner = self._inner.start_tls(ssl_context, server_hostname, self._backend.left())
        return _TimedStream(inner, self._backend)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's own signature
        return self._inner.get_extra_info(info)


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the open internet, also inside IPv6's wrappings."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        wrapped = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            wrapped = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if wrapped is not None:
            found = wrapped
    return found.is_global and not found.is_multicast
