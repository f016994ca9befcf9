"""``live-restore listen``: a line per published volume."""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from live_restore.client import Latest, Message, Subscriber, VolumeMessage
    from live_restore.messages import Encoding, Kind

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "listen",
        help="print a line per published volume",
        description="Listens to a running daemon; waits for one that isn't there yet.",
    )
    parser.add_argument("endpoint", nargs="?", default="tcp://127.0.0.1:5556", help="data port")
    parser.add_argument("--control", help="control port; missed volumes are asked for there")
    parser.add_argument(
        "--from-start",
        action="store_true",
        help="with --control: begin with volumes from before, as far as the daemon holds them",
    )
    parser.add_argument(
        "--latest",
        action="store_true",
        help="with --control: what is newest whenever the last line is printed; the rest is passed over",
    )
    parser.add_argument(
        "--compressed", action="store_true", help="volumes travel in blosc2, for slow links"
    )
    parser.add_argument("--count", type=int, help="stop after so many volumes")
    parser.add_argument("--timeout", type=float, help="stop after so many seconds without one")
    parser.add_argument("--raw", action="store_true", help="also volumes as the camera gave them")
    parser.add_argument("--json", action="store_true", help="each header as one line of JSON")
    parser.add_argument(
        "--checksums", action="store_true", help="with --json: CRC-32 of each plane as received"
    )
    parser.add_argument(
        "--keys", type=Path, metavar="FILE", help="from live-restore keys, for a daemon with keys"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from live_restore.client import VolumeMessage

    left = options.count
    source, is_told = "", options.json
    if (options.latest or options.from_start) and not options.control:
        print("live-restore: --latest and --from-start need --control", file=sys.stderr)
        return 2
    with _viewer(options) as subscriber:
        print(f"listening to {options.endpoint}", file=sys.stderr, flush=True)
        while left is None or left > 0:
            message = subscriber.receive(options.timeout)
            if message is None:
                print(f"nothing for {options.timeout:g} s", file=sys.stderr)
                return 1
            if isinstance(message, VolumeMessage):
                left = None if left is None else left - 1
                line = _as_json(message, options.checksums) if options.json else _as_text(message)
                print(line, flush=True)
                if not is_told and message.header.assessment is not None:
                    blind = "; ".join(message.header.assessment.blind_to)
                    print(f"-- no verdict sees {blind}", flush=True)
                    is_told = True
            elif not options.json:
                source = _print_event(message, source)
    return 0


def _viewer(options: argparse.Namespace) -> Latest | Subscriber:
    from live_restore.client import ClientKeys, Latest, Subscriber

    kinds: tuple[Kind, ...] = ("restored", "raw") if options.raw else ("restored",)
    keys = ClientKeys.load(options.keys) if options.keys else None
    encoding: Encoding = "blosc2" if options.compressed else "raw"
    if options.latest:
        return Latest(options.endpoint, options.control, kinds, keys=keys, encoding=encoding)
    return Subscriber(
        options.endpoint,
        kinds,
        control=options.control,
        from_start=options.from_start,
        keys=keys,
        encoding=encoding,
    )


def _age_s(message: VolumeMessage) -> float:
    """Seconds since the last plane reached the daemon."""
    now = datetime.now(message.header.received_at.tzinfo)
    return (now - message.header.received_at).total_seconds()


def _as_text(message: VolumeMessage) -> str:
    header = message.header
    voxel = header.voxel_size_um
    size = " x ".join(f"{v:.3g}" for v in voxel) + " um" if voxel else "voxel size unknown"
    lost = "  backfill" if header.backfill else ""
    lost += f"  {message.missed} MISSED before it" if message.missed else ""
    return (
        f"{header.received_at.astimezone():%H:%M:%S}  {header.kind:8}  {header.acquisition}  "
        f"position {header.position}  time {header.time}  {header.channel}  "
        f"{header.shape} {header.type}  {size}  age {_age_s(message):.2f} s{_dose(message)}{lost}"
        f"{_remark(message)}{_assessment(message)}"
    )


def _remark(message: VolumeMessage) -> str:
    model = message.header.model
    return f"\n    {model.remark}" if model and model.remark else ""


def _assessment(message: VolumeMessage) -> str:
    """What the guard found: the verdict with its numbers, then each reason on a line."""
    found = message.header.assessment
    if found is None:
        return ""
    parts = [found.verdict.upper()]
    if found.signal is not None:
        parts.append(f"signal {found.signal:.1f} photoelectrons per voxel")
    if found.error is not None:
        error = f"NRMSE about {found.error:.2f}"
        if found.error_bound is not None and found.coverage is not None:
            error += (
                f", below {found.error_bound:.2f} in {found.coverage:.0%} "
                f"(n = {found.num_acquisitions})"
            )
        parts.append(error)
    if found.dose is not None and found.dose.text:
        parts.append(found.dose.text)
    if found.dose is not None and found.dose.time_left_s is not None:
        parts.append(f"bleached in about {found.dose.time_left_s / 60:.0f} min")
    return "\n    ".join(["", ";  ".join(parts), *(f"- {one}" for one in found.reasons)])


def _dose(message: VolumeMessage) -> str:
    light = message.header.light
    if light is None or light.total is None:
        return ""
    share = "" if light.of_own is None else f" ({100 * light.of_own:.0f} % of your light)"
    return f"  dose {light.total:.6g} {light.unit}{share}"


def _as_json(message: VolumeMessage, with_checksums: bool) -> str:
    body = message.header.model_dump(mode="json")
    body["received"] = {"age_s": round(_age_s(message), 6), "missed": message.missed}
    if with_checksums:
        body["received"]["plane_crc32"] = [zlib.crc32(plane) for plane in message.data]
    return json.dumps(body)


def _print_event(message: Message, source: str) -> str:
    """Print what happened; what the source does, when that is another thing than `source`."""
    from live_restore.client import EndHeader, Heartbeat, SkippedHeader, StartHeader

    match message:
        case Heartbeat(source=now) if now and now != source:
            print(f"-- {now}", flush=True)
            return now
        case StartHeader():
            print(f"-- {message.acquisition} starts, {message.shape} {message.type}", flush=True)
        case EndHeader():
            print(f"-- {message.acquisition} ends: {message.reason}", flush=True)
        case SkippedHeader():
            print(
                f"-- SKIPPED {message.acquisition} position {message.position} time {message.time} "
                f"{message.channel}: {message.reason}",
                flush=True,
            )
    return source
