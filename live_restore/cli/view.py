"""``live-restore view``: watch a running daemon, in the browser, in napari, or in the terminal."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from live_restore.client import ClientKeys
    from live_restore.messages import Encoding

__all__ = ["add_command"]

_PORT = 5560


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "view",
        help="watch a running daemon, raw beside restored",
        description="Opens a page in the browser, served on this PC alone; waits for a daemon that isn't "
        "there yet. From another PC: forward the port with ssh -L, and open the address there.",
    )
    parser.add_argument(
        "endpoint",
        nargs="?",
        default="tcp://127.0.0.1:5556",
        help="data port (default %(default)s)",
    )
    parser.add_argument("--control", help="control port (default: the data port's number plus 1)")
    parser.add_argument(
        "--port",
        type=_port,
        help=f"of the page (default {_PORT}, or any that is free; 0 for any)",
    )
    parser.add_argument("--no-browser", action="store_true", help="only say where the page is")
    parser.add_argument(
        "--history-mb",
        type=_positive,
        default=1024,
        help="volumes to look back at (default %(default)s)",
    )
    parser.add_argument(
        "--compressed", action="store_true", help="volumes travel in blosc2, for slow links"
    )
    parser.add_argument(
        "--keys", type=Path, metavar="FILE", help="from live-restore keys, for a daemon with keys"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--napari", action="store_true", help="as layers in napari instead")
    instead.add_argument(
        "--terminal", action="store_true", help="as a table in the terminal instead"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import asyncio

    from live_restore.client import ClientKeys

    control = options.control or control_beside(options.endpoint)
    keys = ClientKeys.load(options.keys) if options.keys else None
    if options.terminal:
        from live_restore.viewer.terminal import show_table

        return show_table(options.endpoint, keys)
    if options.napari:
        from live_restore.viewer.napari_plugin import show_layers

        return show_layers(options.endpoint, control, keys)
    encoding: Encoding = "blosc2" if options.compressed else "raw"
    # ZeroMQ needs this loop on Windows.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(_serve(options, control, keys, encoding))
    return 0


def control_beside(endpoint: str) -> str:
    """The control port that usually goes with a data port: the next number.

    Raises
    ------
    ViewerError
        The data port has no number.
    """
    from urllib.parse import urlsplit, urlunsplit

    from live_restore.errors import ViewerError

    parts = urlsplit(endpoint)
    try:
        if parts.port is None:
            raise ValueError
        host = parts.netloc.rpartition(":")[0]
        return urlunsplit((parts.scheme, f"{host}:{parts.port + 1}", "", "", ""))
    except ValueError:
        raise ViewerError(
            f"{endpoint}: expected an endpoint like tcp://127.0.0.1:5556; or name the control port with --control"
        ) from None


async def _serve(
    options: argparse.Namespace, control: str, keys: ClientKeys | None, encoding: Encoding
) -> None:
    import asyncio
    import signal
    import sys
    import webbrowser

    from live_restore.errors import ViewerError
    from live_restore.viewer.feed import Feed
    from live_restore.viewer.server import serve_page

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if sys.platform != "win32":  # there Ctrl-C ends the loop
        for one in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(one, stop.set)

    def started(address: str) -> None:
        print(f"watching {options.endpoint}: {address} (Ctrl-C ends)", flush=True)
        if not options.no_browser and not webbrowser.open(address):
            print("no browser was found here; open this address in one", flush=True)

    ports = [_PORT, 0] if options.port is None else [options.port]
    for number, port in enumerate(ports, 1):
        feed = Feed(options.endpoint, control, keys, encoding, options.history_mb * 2**20)
        try:
            await serve_page(feed, port, stop, started)
            return
        except ViewerError:
            if number == len(ports):
                raise


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 65536:
        raise argparse.ArgumentTypeError("ports are numbers from 0 to 65535")
    return port


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number
