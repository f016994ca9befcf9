"""What stands on the wire before and in a volume's frames."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from live_restore import messages, protocol
from live_restore.messages import Encoding, Family, Kind
from live_restore.protocol import Frame, topic_of
from live_restore.sinks.streams import Numbered
from live_restore.volume import AcquisitionInfo, ModelUse, utc_now

__all__ = ["described", "frames_of", "model_header", "start_header", "volume_frames"]


def volume_frames(
    session: str, kind: Kind, numbered: Numbered, encoding: Encoding = "raw"
) -> list[Frame]:
    """Frames of a restored volume, or of the raw one beside it."""
    header = described(session, kind, numbered)
    family: Family = "compressed" if encoding == "blosc2" else "volume"
    topic = topic_of(f"{family}/{kind}", *numbered.stream)
    return frames_of(family, topic, header, numbered.data(kind))


def frames_of(
    family: Family, topic: str, header: messages.Header, data: NDArray[Any]
) -> list[Frame]:
    """A volume as whole planes, packed or not, as projections, or its header alone."""
    match family:
        case "volume":
            return protocol.encode_volume(topic, header, data)
        case "compressed":
            packed = header.model_copy(update={"encoding": "blosc2"})
            return protocol.encode_volume(topic, packed, data)
        case "preview":
            return protocol.encode_preview(topic, header, data)
        case "announce":
            return protocol.encode(topic, header)


def described(session: str, kind: Kind, numbered: Numbered) -> messages.Header:
    """The header of the restored or the raw volume."""
    is_raw = kind == "raw"
    restored, data = numbered.restored, numbered.data(kind)
    use = restored.model
    return messages.Header(
        session=session,
        type=data.dtype.name,
        shape=data.shape,
        kind=kind,
        sequence=numbered.sequence,
        acquisition=restored.key.acquisition,
        position=restored.key.position,
        time=restored.key.time,
        channel=restored.key.channel,
        voxel_size_um=restored.info.voxel_size_um,
        acquired_at=restored.raw.acquired_at,
        received_at=restored.raw.received_at,
        published_at=utc_now(),
        timing=dict(restored.timing_s),
        exposure_ms=restored.raw.exposure_ms,
        light=restored.light and messages.LightHeader.of(restored.light),
        missing=restored.raw.missing,
        backfill=restored.is_backfill,
        model=None if is_raw else model_header(use),
        assessment=None
        if is_raw or restored.assessment is None
        else messages.AssessmentHeader.of(restored.assessment),
        intensity=None if is_raw else restored.intensity,
        statistics=numbered.statistics(kind),
    )


def model_header(use: ModelUse) -> messages.ModelHeader:
    """What made a volume."""
    return messages.ModelHeader(
        name=use.name,
        sha256=use.sha256,
        precision=use.precision,
        device=use.device,
        tile=use.tile_zyx,
        attention=use.attention,
        normalisation=use.normalisation,
        remark=use.remark,
        difference=use.difference,
    )


def start_header(session: str, info: AcquisitionInfo) -> messages.StartHeader:
    """What is said when an acquisition begins."""
    return messages.StartHeader(
        session=session,
        acquisition=info.acquisition,
        shape=info.shape_zyx,
        type=info.dtype.name,
        voxel_size_um=info.voxel_size_um,
        channels=info.channels,
        positions=info.positions,
        num_times=info.num_times,
        started_at=info.started_at,
        origin=info.origin,
    )
