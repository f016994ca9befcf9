"""The widget: which daemon, what is followed, and the truth beside the picture."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from live_restore.client import ClientKeys
from live_restore.messages import Header
from live_restore.viewer.history import Held
from live_restore.viewer.napari_plugin.following import Follower
from live_restore.viewer.napari_plugin.layers import LiveLayers
from live_restore.viewer.timeline import Point

__all__ = ["LiveWidget"]

_TICK_MS = 500
_STALE_S = 3.0


class _Bridge(QObject):  # type: ignore[misc]
    """From the follower's thread to the window's."""

    arrived = Signal(object)


class LiveWidget(QWidget):  # type: ignore[misc]
    """Follows a daemon in napari's layers.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Gets the layers.
    endpoint, control : str
        Ports of the daemon.
    keys : ClientKeys, optional
        For a daemon that asks for them.
    """

    def __init__(
        self,
        napari_viewer: Any,
        endpoint: str = "tcp://127.0.0.1:5556",
        control: str = "tcp://127.0.0.1:5557",
        keys: ClientKeys | None = None,
    ) -> None:
        super().__init__()
        self._keys = keys
        self._layers = LiveLayers(napari_viewer)
        self._follower: Follower | None = None
        self._headers: dict[str, Header] = {}
        self._point: Point | None = None
        self._bridge = _Bridge()
        self._bridge.arrived.connect(self._show, Qt.ConnectionType.QueuedConnection)
        self._endpoint, self._control = QLineEdit(endpoint), QLineEdit(control)
        self._button = QPushButton("Connect")
        self._button.clicked.connect(self._toggle)
        self._position = QComboBox()
        self._position.activated.connect(lambda _: self._wish())
        self._slider = QSlider(Qt.Orientation.Horizontal)
        self._slider.setMaximum(0)
        self._slider.sliderMoved.connect(self._let_go)
        self._live = QPushButton("Live")
        self._live.setCheckable(True)
        self._live.setChecked(True)
        self._live.clicked.connect(self._toggle_live)
        self._truth = QLabel("not connected")
        self._truth.setWordWrap(True)
        self._truth.setTextFormat(Qt.TextFormat.PlainText)
        form = QFormLayout()
        for name, field in (("data port", self._endpoint), ("control port", self._control)):
            form.addRow(name, field)
        form.addRow("position", self._position)
        times = QHBoxLayout()
        times.addWidget(self._slider)
        times.addWidget(self._live)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self._button)
        layout.addLayout(times)
        layout.addWidget(self._truth)
        layout.addStretch()
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._tell)
        self.destroyed.connect(lambda *_: self.disconnect_daemon())

    @property
    def truth(self) -> str:
        """What is said beside the picture."""
        return str(self._truth.text())

    def connect_daemon(self) -> None:
        """Follow the daemon at the ports that are written."""
        self.disconnect_daemon()
        self._follower = Follower(
            self._endpoint.text(), self._control.text(), self._bridge.arrived.emit, self._keys
        )
        self._follower.start()
        self._button.setText("Disconnect")
        self._timer.start(_TICK_MS)
        self._tell()

    def disconnect_daemon(self) -> None:
        """Follow it no more; the layers stay."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.stop()
            self._timer.stop()
            self._button.setText("Connect")
            self._truth.setText("not connected")

    def closeEvent(self, event: Any) -> None:  # noqa: N802
        """The window closes."""
        self.disconnect_daemon()
        super().closeEvent(event)

    def hideEvent(self, event: Any) -> None:  # noqa: N802
        """The dock is closed, which only hides it, or napari ends."""
        if not event.spontaneous():
            self.disconnect_daemon()
        super().hideEvent(event)

    # --- from the daemon ---

    def _show(self, found: list[Held]) -> None:
        follower = self._follower
        if follower is None:
            return
        try:
            for held in found:
                self._layers.show(held)
                if held.header.kind == "restored":
                    self._headers[held.header.channel] = held.header
            self._tell()
        finally:
            follower.taken()

    def _tell(self) -> None:
        """The truth, twice a second."""
        follower = self._follower
        if follower is None:
            return
        timeline = follower.timeline
        names = timeline.positions()
        if [self._position.itemText(i) for i in range(self._position.count())] != names:
            chosen = self._position.currentText()
            self._position.clear()
            self._position.addItems(names)
            self._position.setCurrentText(chosen)
        points = timeline.points(self._position.currentText())
        self._slider.setMaximum(max(len(points) - 1, 0))
        if self._point is None:
            self._slider.setValue(len(points) - 1)
        elif self._point in points:
            self._slider.setValue(points.index(self._point))
        silence_s = timeline.silence_s
        lines = []
        if silence_s is None:
            lines.append(f"waiting for a daemon on {self._endpoint.text()} …")
        elif silence_s > _STALE_S:
            lines.append(f"NO WORD from the daemon for {silence_s:.0f} s: this isn't live")
        lines += [_words(one) for one in self._headers.values()]
        lines.append(
            f"received {timeline.num_received}, skipped {timeline.num_skipped}, made up later "
            f"{timeline.num_backfilled}, not heard here {timeline.num_missed}"
        )
        self._truth.setText("\n\n".join(lines))

    # --- from the user ---

    def _toggle(self) -> None:
        if self._follower is None:
            self.connect_daemon()
        else:
            self.disconnect_daemon()

    def _let_go(self, index: int) -> None:
        if self._follower is None:
            return
        points = self._follower.timeline.points(self._position.currentText())
        is_end = index >= len(points) - 1
        self._point = None if is_end else points[index]
        self._live.setChecked(is_end)
        self._wish()

    def _toggle_live(self, is_live: bool) -> None:
        points: list[Point] = []
        if self._follower is not None:
            points = self._follower.timeline.points(self._position.currentText())
        self._point = points[-1] if points and not is_live else None
        self._live.setChecked(self._point is None)
        self._wish()

    def _wish(self) -> None:
        if self._follower is not None:
            self._follower.want(self._position.currentText() or None, self._point)


def _words(header: Header) -> str:
    age_s = time.time() - datetime.timestamp(header.received_at)
    lines = [
        f"{header.channel or 'volume'}: time {header.time}, sequence {header.sequence}, {age_s:.1f} s old"
    ]
    found = header.assessment
    if found is not None:
        lines.append("; ".join([found.verdict.upper(), *found.reasons]))
        if found.error is not None:
            lines.append(f"error (NRMSE) about {found.error:.2f}")
        if found.dose is not None and found.dose.text:
            lines.append(f"light: {found.dose.text}")
    if header.model is not None:
        lines.append(f"{header.model.name} on {header.model.device}")
    return "\n".join(lines)
