"""High-dose stacks of the demonstration microscope, for the default model's envelope.

python benchmarks/demo_stacks.py STACKS [--fields 24]
live-restore characterize default --stacks STACKS --camera demo --output default.envelope --report report
"""

import argparse
from pathlib import Path

import numpy as np

from live_restore.simulation import SimulatedMicroscope
from live_restore.sinks.writer import write_ome_tiff

PHOTONS = 300.0
FIRST_SEED = 100  # the demo shows 7; benchmarks/guard.py tries others


def main() -> None:
    """Write a file of two channels per field."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fields", type=int, default=24)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(FIRST_SEED, FIRST_SEED + options.fields):
        scope = SimulatedMicroscope(peak_photons=PHOTONS, seed=seed)
        data = np.stack([scope.stack(0, channel) for channel in scope.channels])[None]
        write_ome_tiff(
            options.folder / f"field{seed}.ome.tif",
            data,
            data.shape,
            data.dtype,
            scope.voxel_size_um,
            scope.channels,
            {"simulated": f"seed {seed}, {PHOTONS:g} photons"},
        )


if __name__ == "__main__":
    main()
