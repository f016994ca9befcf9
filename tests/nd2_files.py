"""Writes Nikon's ND2, version 3, as far as its public readers describe it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAGIC = 0x0ABECEDA
_NAME_LENGTH = 4072  # so that pixels, after a time of 8 bytes, begin at 4096


def write_nd2(
    path: Path,
    data: NDArray[Any],
    names: tuple[str, ...] = ("DAPI", "FITC"),
    voxel_um: tuple[float, float] | None = (0.3, 0.1),
    num_frames: int | None = None,
) -> None:
    """An ND2 of (P, T, C, Z, Y, X).

    Parameters
    ----------
    path : pathlib.Path
        The file.
    data : ndarray
        uint8 or uint16; the channels of one z are one frame.
    names : tuple of str
        Of the channels.
    voxel_um : tuple of float or None
        Step in z, and pixel size; None for a microscope that isn't calibrated.
    num_frames : int, optional
        How many are there; the rest is announced only, as after a stop.
    """
    frames = np.moveaxis(data, 2, -1)  # (P, T, Z, Y, X, C)
    frames = np.ascontiguousarray(frames.reshape(-1, *frames.shape[3:]))
    step, pixel = voxel_um or (0.0, -1.0)
    p, t, c, z, y, x = data.shape
    loops = [
        (1, t, {"uiCount": t, "dStart": 0.0, "dPeriod": 5.0, "dDuration": 5.0 * t}),
        (4, z, {"uiCount": z, "dZStep": step, "dZLow": 0.0, "dZHigh": step * (z - 1)}),
    ]
    if p > 1:
        points = {f"i{n:010}": {"dPosX": float(n), "dPosY": 0.0, "dPosZ": 0.0} for n in range(p)}
        loops.insert(0, (2, p, {"uiCount": p, "Points": points}))
    experiment: dict[str, Any] = {}
    for kind, count, parameters in reversed(loops):
        below = {"ppNextLevelEx": {"i0000000000": experiment}} if experiment else {}
        experiment = {"eType": kind, "uiLoopCount": count, "uLoopPars": parameters, **below}
    light = {"m_ExcitationSpectrum": {"uiCount": 0}, "m_EmissionSpectrum": {"uiCount": 0}}
    planes = {
        f"a{n}": {"sDescription": name, "uiCompCount": 1, "pFluorescentProbe": light}
        for n, name in enumerate(names[:c])
    }
    chunks = {
        "ImageAttributesLV!": {
            "SLxImageAttributes": {
                "uiWidth": x,
                "uiHeight": y,
                "uiWidthBytes": x * c * data.itemsize,
                "uiComp": c,
                "uiBpcInMemory": 8 * data.itemsize,
                "uiBpcSignificant": 8 * data.itemsize,
                "uiSequenceCount": len(frames),
                "eCompression": 2,
            }
        },
        "ImageMetadataLV!": {"SLxExperiment": experiment},
        "ImageMetadataSeqLV|0!": {
            "SLxPictureMetadata": {
                "bCalibrated": pixel > 0,
                "dCalibration": pixel,
                "sPicturePlanes": {"uiCount": c, "sPlaneNew": planes},
            }
        },
    }
    contents = {name: _level(chunk) for name, chunk in chunks.items()}
    contents["CustomData|AcqTimesCache!"] = np.arange(len(frames), dtype="f8").tobytes()
    for number, frame in enumerate(frames[:num_frames]):
        contents[f"ImageDataSeq|{number}!"] = struct.pack("<d", number) + frame.tobytes()
    whole = _chunk("ND2 FILE SIGNATURE CHUNK NAME01!", b"Ver3.0".ljust(64, b"\0"), 32)
    index = b""
    for name, content in contents.items():
        index += name.encode() + struct.pack("<QQ", len(whole), len(content))
        whole += _chunk(name, content, _NAME_LENGTH)
    signature = b"ND2 CHUNK MAP SIGNATURE 0000001!"
    index += signature + struct.pack("<Q", len(whole))
    path.write_bytes(whole + _chunk("ND2 FILEMAP SIGNATURE NAME 0001!", index, 32))


def _chunk(name: str, content: bytes, name_length: int) -> bytes:
    header = struct.pack("<IIQ", _MAGIC, name_length, len(content))
    return header + name.encode().ljust(name_length, b"\0") + content


def _level(values: dict[str, Any]) -> bytes:
    """What Nikon calls a lite variant: type, length of the name, name, value; and so on inward."""
    return b"".join(_item(name, value) for name, value in values.items())


def _item(name: str, value: Any) -> bytes:
    start = bytes([len(name) + 1]) + (name + "\0").encode("utf-16-le")
    if isinstance(value, bool):
        return b"\x01" + start + struct.pack("<?", value)
    if isinstance(value, int):
        return b"\x03" + start + struct.pack("<I", value)
    if isinstance(value, float):
        return b"\x06" + start + struct.pack("<d", value)
    if isinstance(value, str):
        return b"\x08" + start + (value + "\0").encode("utf-16-le")
    inner = _level(value)
    length = 1 + len(start) + 12 + len(inner)
    return b"\x0b" + start + struct.pack("<IQ", len(value), length) + inner + bytes(8 * len(value))
