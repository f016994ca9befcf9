"""Where Micro-Manager is installed."""

from __future__ import annotations

from pathlib import Path

from live_restore.errors import SourceError

__all__ = ["micro_manager_folder"]


def micro_manager_folder(path: Path) -> Path:
    """The folder of a Micro-Manager installation; ``democam`` is the one of the extra "demo".

    Raises
    ------
    SourceError
        It isn't there.
    """
    if str(path) == "democam":
        try:
            import mm_test_adapters
        except ImportError as error:
            raise SourceError(
                'the demonstration camera isn\'t installed: pip install "live-restore[demo]"'
            ) from error
        return Path(mm_test_adapters.device_adapter_path())
    if not path.is_dir():
        raise SourceError(
            f"Micro-Manager folder {path}: isn't there; mend micro_manager in [source]"
        )
    return path
