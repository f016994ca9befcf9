"""A daemon's ingest port in a process that starts fast: ``python -m tests.ingest_reader ENDPOINT``.

Prints what comes, a JSON line for each event; planes with the CRC of their pixels.
"""

from __future__ import annotations

import json
import sys
import zlib
from typing import Any

from live_restore.interfaces import StopSignal
from live_restore.profile import IngestSource
from live_restore.sources.ingest import Ingest
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane, SourceState


def main() -> None:
    with Ingest(IngestSource(kind="ingest", endpoint=sys.argv[1])) as source:
        print(json.dumps({"event": "ready"}), flush=True)
        for event in source.events(StopSignal()):
            told: dict[str, Any] = {"event": type(event).__name__}
            match event:
                case Plane():
                    key = event.key
                    told |= {"acquisition": key.acquisition, "time": key.time, "z": event.z}
                    told |= {"channel": key.channel, "crc32": zlib.crc32(event.data)}
                case AcquisitionInfo() | AcquisitionEnd():
                    told["acquisition"] = event.acquisition
                    told["reason"] = getattr(event, "reason", "")
                case SourceState():
                    continue
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
