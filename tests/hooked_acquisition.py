"""A microscope script of somebody's own, with our hook: ``python -m tests.hooked_acquisition``.

Runs pycromanager on the demonstration camera as orders on standard input say, a JSON line each, and
answers each with a line on standard output:

- ``{"do": "hook", "endpoint": ..., ...}``: a hook is made, as `publish_planes` is called; without
  endpoint, none
- ``{"do": "begin", "folder": ..., "stamp": bool, "direct": bool}``: an acquisition begins; stamped,
  its pixels and clocks are its places' alone; direct, the hook itself is pycromanager's function
- ``{"do": "set", "name": ..., "value": ...}``: a property of the camera
- ``{"do": "acquire", "times": [...]}``: planes of these time points; says so when all went through
  the function, unless direct
- ``{"do": "end"}``: it ends; says how long it took
- ``{"do": "sabotage", "name": ...}``: this name in our hook's module raises when called
- ``{"do": "restore"}``: the sabotage is over
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from typing import Any

import mm_test_adapters
import numpy as np
from pycromanager import (
    Acquisition,
    Core,
    multi_d_acquisition_events,
    start_headless,
    stop_headless,
)

from live_restore import hook as hook_module

CHANNELS, SLICES = ("DAPI", "FITC"), 4
CLOCKS = {"Time": "2026-01-01 00:00:00.000", "ElapsedTime-ms": 0}


def stamp(axes: dict[str, Any], shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Pixels that are this place's alone."""
    seed = [axes.get("time", 0), CHANNELS.index(axes["channel"]), axes.get("z", 0)]
    return np.random.default_rng(seed).integers(0, 60_000, shape).astype(dtype)


class Script:
    """What the script has at hand."""

    def __init__(self) -> None:
        self.core = Core()
        self.core.set_property("Camera", "Mode", "Noise")
        self.core.set_property("Camera", "PixelType", "16bit")
        self.core.set_exposure(1)
        self.hook: Any = None
        self.acquisition: Any = None
        self.is_stamped = self.is_direct = False
        self.processed = threading.Semaphore(0)
        self.started_s = 0.0
        self.sabotaged: dict[str, Any] = {}

    def process(self, image: Any, metadata: Any) -> tuple[Any, Any]:
        """Called for each image; what is stamped depends on its place alone."""
        if self.is_stamped:
            image = stamp(metadata["Axes"], image.shape, image.dtype)
            metadata = metadata | {k: v for k, v in CLOCKS.items() if k in metadata}
        result = self.hook(image, metadata) if self.hook else (image, metadata)
        self.processed.release()
        return result

    def do(self, order: dict[str, Any]) -> dict[str, Any]:
        match order.pop("do"):
            case "hook":
                self.hook = hook_module.publish_planes(**order) if order else None
            case "begin":
                self.is_stamped = order.get("stamp", False)
                self.is_direct = order.get("direct", False)
                self.started_s = time.monotonic()
                self.acquisition = Acquisition(
                    directory=order.get("folder"),
                    name="run",
                    image_process_fn=self.hook if self.is_direct else self.process,
                )
            case "set":
                self.core.set_property("Camera", order["name"], order["value"])
            case "acquire":
                events = multi_d_acquisition_events(
                    num_time_points=max(order["times"]) + 1,
                    channel_group="Channel",
                    channels=list(CHANNELS),
                    z_start=0,
                    z_end=(SLICES - 1) * 0.25,
                    z_step=0.25,
                    order="tcz",
                )
                wanted = [event for event in events if event["axes"]["time"] in order["times"]]
                self.acquisition.acquire(wanted)
                for _ in () if self.is_direct else wanted:
                    self.processed.acquire()
            case "end":
                self.acquisition.mark_finished()
                self.acquisition.await_completion()
                self.acquisition.get_dataset().close()
                return {"took_s": time.monotonic() - self.started_s}
            case "sabotage":
                name = order["name"]
                self.sabotaged[name] = getattr(hook_module, name)
                setattr(hook_module, name, raises)
            case "restore":
                for name, value in self.sabotaged.items():
                    setattr(hook_module, name, value)
                self.sabotaged.clear()
        return {}


def raises(*_: Any, **__: Any) -> Any:
    raise RuntimeError("sabotaged")


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    start_headless(
        mm_app_path=mm_test_adapters.device_adapter_path(),
        config_file="MMConfig_demo.cfg",
        python_backend=True,
        buffer_size_mb=64,
    )
    script = Script()
    answers, sys.stdout = sys.stdout, sys.stderr  # pycromanager prints
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(script.do(json.loads(line))), file=answers, flush=True)
    stop_headless()


if __name__ == "__main__":
    main()
