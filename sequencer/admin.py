"""Pulsar's admin REST interface, as little of it as the commands need: JSON in, JSON out, errors in one line."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote, urljoin

import httpx

from sequencer import SequencerError

REQUEST_TIMEOUT_S = 45.0
"""Longer than the 30 s for which loading a topic can stall in the broker, so that the broker's own answer arrives."""
CONNECT_TIMEOUT_S = 10.0
MAX_REDIRECTS = 5
MAX_ERROR_CHARS = 300

HTTP_NOT_FOUND = 404
HTTP_CONFLICT = 409


class AdminFailed(SequencerError):
    """The admin interface refused a request, or could not be reached (then `status` is 0)."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class AdminUnreachable(AdminFailed):
    """There is nobody to ask: no connection to the admin interface can be made."""


class Admin:
    """A connection to the admin interface.

    Args:
        admin_url: for example "http://127.0.0.1:8080".
        token: sent as a bearer token where given.
    """

    def __init__(self, admin_url: str, token: str | None = None) -> None:
        self.admin_url = _checked_url(admin_url)
        timeout = httpx.Timeout(REQUEST_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._http = httpx.Client(headers=_headers(token), timeout=timeout, trust_env=False)

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        """The decoded answer to a path such as "v2/namespaces/public/default".

        None where the broker answers with nothing: a policy that was never set.
        """
        return self._call("GET", path)

    def put(self, path: str, body: object = None) -> None:
        self._call("PUT", path, body)

    def post(self, path: str, body: object = None) -> None:
        self._call("POST", path, body)

    def delete(self, path: str, query: Mapping[str, str] | None = None) -> None:
        self._call("DELETE", path, query=query)

    def _call(self, method: str, path: str, body: object = None, query: Mapping[str, str] | None = None) -> Any:
        """Raises: AdminFailed."""
        url = _url(self.admin_url, path)
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(method, url, body, query)
            if not response.is_redirect:
                return _decoded(method, path, response)
            # Another broker owns the topic. httpx's own redirects would drop the bearer token on the way.
            url = urljoin(url, response.headers["Location"])
            query = None
        raise _too_many_redirects(method, path, url)

    def _send(self, method: str, url: str, body: object, query: Mapping[str, str] | None) -> httpx.Response:
        try:
            return self._http.request(method, url, json=body, params=query)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unreachable(self.admin_url, method, url, error) from error


class AdminReader:
    """The same for one event loop, and only reading: what waits for an answer can be cancelled.

    Args:
        timeout_s: for each request.
    """

    def __init__(self, admin_url: str, token: str | None = None, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self.admin_url = _checked_url(admin_url)
        self._http = httpx.AsyncClient(headers=_headers(token), timeout=timeout_s, trust_env=False)

    async def __aenter__(self) -> AdminReader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """As `Admin.get`. Raises: AdminFailed."""
        url = str(httpx.URL(_url(self.admin_url, path), params=query))
        for _ in range(MAX_REDIRECTS + 1):
            try:
                response = await self._http.get(url)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise _unreachable(self.admin_url, "GET", url, error) from error
            if not response.is_redirect:
                return _decoded("GET", path, response)
            url = urljoin(url, response.headers["Location"])
        raise _too_many_redirects("GET", path, url)


def _checked_url(admin_url: str) -> str:
    """Without a slash at its end. Raises: AdminFailed: not http:// or https://."""
    try:
        scheme = httpx.URL(admin_url).scheme
    except httpx.InvalidURL as error:
        raise AdminFailed(f"not a URL of an admin interface: {admin_url!r} ({error})") from error
    if scheme not in ("http", "https"):
        raise AdminFailed(f"not a URL of an admin interface: {admin_url!r} (expected http://HOST:PORT)")
    return admin_url.rstrip("/")


def _headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _url(admin_url: str, path: str) -> str:
    return f"{admin_url}/admin/{quote(path)}"


def _too_many_redirects(method: str, path: str, url: str) -> AdminFailed:
    return AdminFailed(f"{method} {path}: more than {MAX_REDIRECTS} redirects, the last one to {url}")


def _unreachable(admin_url: str, method: str, url: str, error: Exception) -> AdminFailed:
    if isinstance(error, httpx.TimeoutException):
        return AdminFailed(f"{method} {url}: no answer in time ({type(error).__name__})")
    return AdminUnreachable(f"cannot reach the admin interface at {admin_url}: {error}")


def _decoded(method: str, path: str, response: httpx.Response) -> Any:
    if response.is_success:
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise AdminFailed(f"{method} {path}: the answer is not JSON: is this Pulsar's admin interface?") from error
    raise AdminFailed(f"{method} {path}: {response.status_code} {_reason(response)}", response.status_code)


def _reason(response: httpx.Response) -> str:
    """What the broker says is wrong, in one line: it answers {"reason": "..."}, a proxy answers with a page."""
    try:
        reason = response.json()["reason"]
    except (ValueError, KeyError, TypeError):
        reason = response.text or response.reason_phrase
    return " ".join(str(reason).split())[:MAX_ERROR_CHARS]
