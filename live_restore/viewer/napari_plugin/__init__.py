"""napari: live layers in a widget, and a reader for written files. Needs the extra ``napari``."""

from __future__ import annotations

from importlib.util import find_spec

from live_restore.client import ClientKeys
from live_restore.errors import ViewerError

__all__ = ["show_layers"]


def show_layers(endpoint: str, control: str, keys: ClientKeys | None = None) -> int:
    """Open napari with a daemon's streams as layers, until its window is closed.

    Parameters
    ----------
    endpoint, control : str
        Ports of the daemon.
    keys : ClientKeys, optional
        For a daemon that asks for them.

    Returns
    -------
    int
        Exit code.

    Raises
    ------
    ViewerError
        napari isn't installed.
    """
    if find_spec("napari") is None:
        raise ViewerError('napari isn\'t installed: pip install "live-restore[napari]"')
    import napari

    from live_restore.viewer.napari_plugin.widget import LiveWidget

    viewer = napari.Viewer(title="live_restore")
    widget = LiveWidget(viewer, endpoint, control, keys)
    viewer.window.add_dock_widget(widget, name="live-restore")
    widget.connect_daemon()
    napari.run()
    return 0
