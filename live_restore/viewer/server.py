"""Serves the page and speaks with it, on loopback only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from importlib import resources
from urllib.parse import urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from live_restore.errors import ViewerError
from live_restore.viewer.feed import Feed
from live_restore.viewer.page_link import PageLink

__all__ = ["LinkServer", "serve_page"]

logger = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_OWN_NAMES = {"127.0.0.1", "localhost", "::1"}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self' ws://127.0.0.1:* ws://localhost:*"
)
_LARGEST_REQUEST = 64 * 1024
_PING_S = 20.0
_PATIENCE_S = 120.0  # with a page that doesn't answer: a frozen one goes on where it was
_SOCKET = "/live"


class LinkServer:
    """The page's server, while it is entered; see `serve_page`.

    Parameters
    ----------
    feed : Feed
        What pages show.
    port : int
        On 127.0.0.1; 0 for any that is free.
    """

    def __init__(self, feed: Feed, port: int) -> None:
        self._feed = feed
        self._port = port
        self._files = _page_files()
        self._server: Server | None = None

    async def __aenter__(self) -> str:
        """Start; the page's address."""
        try:
            self._server = await serve(
                self._handle,
                _HOST,
                self._port,
                process_request=self._answer,
                compression=None,
                max_size=_LARGEST_REQUEST,
                ping_interval=_PING_S,
                ping_timeout=_PATIENCE_S,
                server_header=None,
            )
        except OSError as error:
            raise ViewerError(
                f"port {self._port} on {_HOST}: can't be opened ({error.strerror}). Another program uses it; "
                "choose another one with --port"
            ) from error
        port = self._server.sockets[0].getsockname()[1]
        return f"http://{_HOST}:{port}/"

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _handle(self, connection: ServerConnection) -> None:
        link = PageLink(self._feed, connection.send)
        try:
            await link.serve(aiter(connection))
        except ConnectionClosed:
            logger.debug("a page has gone")

    def _answer(self, _: ServerConnection, request: Request) -> Response | None:
        """A file of the page; None for the socket."""
        if not _is_own(request.headers):
            # Another site's page in the same browser, or a name that was made to lead here.
            return _response(HTTPStatus.FORBIDDEN, b"this viewer is only for its own page\n")
        path = urlsplit(request.path).path
        if path == _SOCKET:
            return None
        found = self._files.get("index.html" if path == "/" else path.removeprefix("/"))
        if found is None:
            return _response(HTTPStatus.NOT_FOUND, b"no such page\n")
        return _response(HTTPStatus.OK, *found)


async def serve_page(
    feed: Feed, port: int, stop: asyncio.Event, started: Callable[[str], None]
) -> None:
    """Serve until `stop` is set.

    Parameters
    ----------
    feed : Feed
        What pages show; it is run here.
    port : int
        On 127.0.0.1; 0 for any that is free.
    stop : asyncio.Event
        Ends it.
    started : callable
        Told the page's address.

    Raises
    ------
    ViewerError
        The port can't be opened.
    """
    is_listening = asyncio.Event()
    hearing = asyncio.create_task(feed.run(is_listening.set))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait(
            [hearing, asyncio.create_task(is_listening.wait())],
            return_when=asyncio.FIRST_COMPLETED,
        )
        async with LinkServer(feed, port) as address:
            started(address)
            await asyncio.wait([hearing, stopping], return_when=asyncio.FIRST_COMPLETED)
        if hearing.done():
            hearing.result()
    finally:
        for task in (hearing, stopping):
            task.cancel()
        await asyncio.gather(hearing, stopping, return_exceptions=True)


def _page_files() -> dict[str, tuple[bytes, str]]:
    """What is served, with its type: read once, so that no path can lead elsewhere."""
    found = {}
    for one in resources.files("live_restore.viewer").joinpath("page").iterdir():
        suffix = "." + one.name.rpartition(".")[2]
        if one.is_file() and suffix in _TYPES:
            found[one.name] = one.read_bytes(), _TYPES[suffix]
    return found


def _is_own(headers: Headers) -> bool:
    """Whether a request was sent to a name of this PC, from this page or from no page."""
    host = headers.get("Host", "")
    origin = headers.get("Origin")
    name = urlsplit(f"//{host}").hostname
    return name in _OWN_NAMES and origin in (None, f"http://{host}")


def _response(status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> Response:
    headers = Headers(
        [
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", _POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
        ]
    )
    return Response(status.value, status.phrase, headers, body)
