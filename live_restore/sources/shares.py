"""Tells whether a folder lies on a network share, where changes that others make send no events."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path, PurePath

__all__ = ["share_of", "share_of_mount"]

_MOUNTS = Path("/proc/self/mountinfo")
_SHARED = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "smb2", "ncpfs", "afs", "afpfs", "coda", "davfs"),
        *("ceph", "glusterfs", "lustre", "beegfs", "gpfs", "pvfs2", "orangefs", "gfs2", "ocfs2"),
        # The host's folders in a virtual machine, and Windows' drives in its Linux.
        *("9p", "virtiofs", "vboxsf", "prl_fs", "vmhgfs", "drvfs", "fakeowner", "fuse"),
    }
)
# Other file systems in user space are taken for shares: listing a folder too often does no harm.
_LOCAL_IN_USER_SPACE = frozenset(
    {
        *("bindfs", "mergerfs", "unionfs", "unionfs-fuse", "fuse-overlayfs", "overlayfs", "mhddfs"),
        *("encfs", "gocryptfs", "cryfs", "cryptomator", "securefs", "veracrypt"),
        *("ntfs-3g", "exfat", "apfs", "zfs", "lxcfs", "portal", "snapfuse", "squashfuse"),
    }
)
_ESCAPED = re.compile(r"\\([0-7]{3})")


def share_of(folder: Path) -> str | None:
    """What tells that a folder lies on a network share, for people; None where nothing does.

    Linux tells by the type of its file system, Windows by the kind of its drive. Other systems don't
    tell.

    Parameters
    ----------
    folder : pathlib.Path
        An absolute path without symbolic links.
    """
    if sys.platform == "win32":
        import ctypes

        remote = 4  # DRIVE_REMOTE
        is_remote = ctypes.windll.kernel32.GetDriveTypeW(folder.anchor) == remote
        return folder.anchor if is_remote or folder.anchor.startswith("\\\\") else None
    if sys.platform == "linux":
        try:
            return share_of_mount(folder, os.fsdecode(_MOUNTS.read_bytes()))
        except OSError:
            return None  # /proc isn't there in some containers
    return None


def share_of_mount(folder: PurePath, mountinfo: str) -> str | None:
    """The share among Linux's mounts that holds a folder, as ``nfs4 mounted at /data``, or None.

    Parameters
    ----------
    folder : pathlib.PurePath
        An absolute path without symbolic links.
    mountinfo : str
        What ``/proc/self/mountinfo`` says, proc(5): the mount point is a line's fifth field, the type
        of its file system the first after a lonely hyphen.
    """
    found = PurePath("/")
    kind = ""
    for line in mountinfo.splitlines():
        mount, _, file_system = line.partition(" - ")
        fields = mount.split(" ")
        if len(fields) < 5 or not file_system:
            continue
        point = PurePath(_ESCAPED.sub(lambda code: chr(int(code[1], 8)), fields[4]))
        # A later mount at the same place hides the one before.
        if folder.is_relative_to(point) and len(point.parts) >= len(found.parts):
            found, kind = point, file_system.split(" ")[0]
    return f"{kind} mounted at {found}" if _is_shared(kind) else None


def _is_shared(kind: str) -> bool:
    family, _, name = kind.partition(".")
    if family == "fuse" and name:
        return name not in _LOCAL_IN_USER_SPACE
    return kind in _SHARED
