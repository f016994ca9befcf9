"""Where volumes come from."""

from __future__ import annotations

from live_restore.interfaces import Source
from live_restore.ledger import Ledger
from live_restore.profile import (
    AcquisitionSource,
    FolderSource,
    IngestSource,
    MicroManagerSource,
    Profile,
    SimulatedSource,
)

__all__ = ["open_source"]


def open_source(profile: Profile, ledger: Ledger | None = None) -> Source:
    """The source that a profile asks for; enter it to open it.

    Parameters
    ----------
    profile : Profile
        Says which.
    ledger : Ledger, optional
        Knows which volumes need not come again.
    """
    match profile.source:
        case SimulatedSource() as settings:
            from live_restore.sources.simulated import Simulated

            return Simulated(settings)
        case FolderSource() as settings:
            from live_restore.sources.folder import Folder

            ignore = profile.write.folder if profile.write else None
            return Folder(settings, ignore, ledger)
        case AcquisitionSource() as settings:
            from live_restore.sources.acquisition import OwnAcquisition

            return OwnAcquisition(settings, profile.dose)
        case IngestSource() as settings:
            from live_restore.sources.ingest import Ingest

            return Ingest(settings)
        case MicroManagerSource() as settings:
            from live_restore.sources.micromanager import MicroManager

            return MicroManager(settings, profile.dose)
