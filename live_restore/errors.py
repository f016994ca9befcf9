"""The error tree: each message says what was expected, what came, where, and what to do."""

__all__ = [
    "CalibrationError",
    "DeviceLostError",
    "KeyFileError",
    "LedgerError",
    "LiveRestoreError",
    "MetricsError",
    "ModelError",
    "NoAnswerError",
    "ProfileError",
    "ProtocolError",
    "RefusedError",
    "RestoreError",
    "SinkError",
    "SourceError",
    "SpoolError",
    "ViewerError",
]


class LiveRestoreError(Exception):
    """Anything this package reports on purpose; the command line prints it without a traceback."""


class ProfileError(LiveRestoreError):
    """A profile can't be read, or one of its keys or values is wrong."""


class KeyFileError(LiveRestoreError):
    """Keys can't be read or written, or aren't any."""


class SourceError(LiveRestoreError):
    """A source can't be opened, or what it delivered can't be used."""


class CalibrationError(LiveRestoreError):
    """A camera can't be calibrated, or a calibration or an envelope can't be read."""


class ModelError(LiveRestoreError):
    """A model file can't be read, or doesn't fit what it is wanted for."""


class RestoreError(LiveRestoreError):
    """A volume can't be restored, or the device that should do it isn't there."""


class DeviceLostError(LiveRestoreError):
    """The device that restores is lost to this process; a new one may have it again."""


class SinkError(LiveRestoreError):
    """A restored volume can't be published or written."""


class MetricsError(LiveRestoreError):
    """Metrics are wanted and can't be served."""


class LedgerError(LiveRestoreError):
    """The record of what was restored can't be opened or read."""


class SpoolError(LiveRestoreError):
    """Volumes can't be kept on disk while they wait, or not be read back."""


class ProtocolError(LiveRestoreError):
    """A message on the wire doesn't follow the protocol."""


class NoAnswerError(ProtocolError):
    """Nobody answered on the control port in time."""


class RefusedError(ProtocolError):
    """The daemon said no to a request.

    Parameters
    ----------
    message : str
        Why, in words.
    code : str
        Why, for programs: one of the protocol's codes.
    held : tuple of int
        The volumes of the stream that can be had, by number.
    """

    def __init__(self, message: str, code: str, held: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.held = held


class ViewerError(LiveRestoreError):
    """A viewer can't be opened."""
