"""What a running Micro-Manager says of itself, asked in a process of its own.

``python -m live_restore.sources.bridge.inquiry PORT`` prints it as JSON. What one version doesn't
tell is left out.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from live_restore.errors import SourceError

__all__ = ["BRIDGE_MB_PER_S", "Inquiry", "inquire", "main"]

BRIDGE_MB_PER_S = 100.0
"""What Micro-Manager's bridge carries without falling behind; measured 100 to 150."""

_CONNECT_S = 2.0
_ANSWER_S = 20.0  # Python itself, on a busy computer, and a dozen calls


class Inquiry(BaseModel):
    """What Micro-Manager tells; None where it doesn't."""

    version: str | None = None
    """Of Micro-Manager."""
    is_displayed: bool | None = None
    """Whether the acquisition dialog's next acquisition has a window."""
    save_path: str | None = None
    """Where it will be saved; empty when it won't."""
    save_mode: str | None = None
    """In which layout."""
    height: int | None = None
    """Of an image."""
    width: int | None = None
    """Of an image."""
    bytes_per_pixel: int | None = None
    """Of an image."""
    exposure_ms: float | None = None
    """As the camera is set."""

    @property
    def most_mb_per_s(self) -> float | None:
        """MB per second of a camera that does nothing but expose."""
        size = (self.height or 0) * (self.width or 0) * (self.bytes_per_pixel or 0)
        return size / 1e3 / self.exposure_ms if size and self.exposure_ms else None


def inquire(port: int) -> Inquiry:
    """Ask the Micro-Manager on a port of this computer.

    Raises
    ------
    SourceError
        Nothing listens there, or what does doesn't answer as Micro-Manager.
    """
    try:
        socket.create_connection(("127.0.0.1", port), timeout=_CONNECT_S).close()
    except OSError as error:
        raise SourceError(
            f"nothing listens on port {port}: start Micro-Manager, and turn on Tools > Options > "
            "Run server. The service waits for it, too"
        ) from error
    command = [sys.executable, "-m", "live_restore.sources.bridge.inquiry", str(port)]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_ANSWER_S, check=False
        )
        return Inquiry.model_validate_json(answer.stdout)
    except (subprocess.TimeoutExpired, ValidationError) as error:
        raise SourceError(
            f"what listens on port {port} doesn't answer as Micro-Manager's server: restart "
            "Micro-Manager; if another program uses this port, set another one in Tools > Options "
            "and in [source]"
        ) from error


def main() -> None:
    """Print what Micro-Manager tells; for `inquire`."""
    from live_restore.sources.bridge.studio import connect, quieten_bridge
    from live_restore.sources.child import end_at_once

    quieten_bridge()
    studio = connect(int(sys.argv[1]), _CONNECT_S)
    settings = _told(lambda: studio.acquisitions().get_acquisition_settings())
    core = _told(lambda: studio.core())
    saves = _told(lambda: bool(settings.save()))
    told = Inquiry(
        version=_told(lambda: str(studio.compat().get_version())),
        is_displayed=_told(lambda: bool(settings.should_display_images())),
        save_path=_told(lambda: f"{settings.root()}/{settings.prefix()}") if saves else "",
        save_mode=_told(lambda: _name(settings.save_mode())) if saves else None,
        height=_told(lambda: int(core.get_image_height())),
        width=_told(lambda: int(core.get_image_width())),
        bytes_per_pixel=_told(lambda: int(core.get_bytes_per_pixel())),
        exposure_ms=_told(lambda: float(core.get_exposure())),
    )
    if saves is None:
        told = told.model_copy(update={"save_path": None})
    sys.stdout.write(json.dumps(told.model_dump()))
    sys.stdout.flush()
    end_at_once(0)


def _told(ask: Callable[[], Any]) -> Any:
    """An answer; None from a Micro-Manager that doesn't know the question."""
    try:
        return ask()
    except Exception:  # noqa: BLE001 - the bridge has no narrower one
        return None


def _name(value: Any) -> str:
    return value if isinstance(value, str) else str(value.to_string())


if __name__ == "__main__":
    main()
