"""The profile: one TOML file that says where volumes come from, what restores them, where they go.

Unknown keys are refused with the nearest right name. Relative paths count from the profile's own
folder. Each field's docstring is its help.
"""

from __future__ import annotations

from live_restore.profile.loading import load_profile, parse_profile
from live_restore.profile.sources import (
    AcquisitionSource,
    FolderLayout,
    FolderSource,
    IngestSource,
    MicroManagerSource,
    SimulatedSource,
    SourceSettings,
)
from live_restore.profile.tables import (
    DoseSettings,
    GuardSettings,
    LedgerSettings,
    MetricsSettings,
    ModelSettings,
    Profile,
    PublishSettings,
    QueueSettings,
    StackSettings,
    WriteSettings,
)

__all__ = [
    "AcquisitionSource",
    "DoseSettings",
    "FolderLayout",
    "FolderSource",
    "GuardSettings",
    "IngestSource",
    "LedgerSettings",
    "MetricsSettings",
    "MicroManagerSource",
    "ModelSettings",
    "Profile",
    "PublishSettings",
    "QueueSettings",
    "SimulatedSource",
    "SourceSettings",
    "StackSettings",
    "WriteSettings",
    "load_profile",
    "parse_profile",
]
