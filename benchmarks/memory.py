"""Peak memory of restoring one large volume, beside the volume itself.

python benchmarks/memory.py [--shape 50,2048,2048] [--device cpu] [--precision float32]
"""

import argparse
import resource
import time

import numpy as np

from live_restore.restore.model import load_model
from live_restore.restore.restorer import RcanRestorer
from live_restore.volume import AcquisitionInfo, Volume, VolumeKey, utc_now


def peak_mb() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Restore once and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="50,2048,2048")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--model", default="default")
    options = parser.parse_args()
    nz, ny, nx = (int(size) for size in options.shape.split(","))
    rng = np.random.default_rng(0)
    data = np.empty((nz, ny, nx), np.uint16)
    for plane in data:
        plane[:] = rng.poisson(20, (ny, nx))
    info = AcquisitionInfo("a", (nz, ny, nx), data.dtype, None, ("c",))
    volume = Volume(VolumeKey("a", "0", 0, "c"), info, data, None, utc_now(), time.monotonic())
    model = load_model(options.model)
    with RcanRestorer(model, options.device, options.precision) as restorer:
        before = peak_mb()
        started = time.monotonic()
        restorer.restore(volume)
        seconds = time.monotonic() - started
        tiles = restorer.plan(info.shape_zyx)
        print(f"{model.card.name} on {restorer.device_name} in {restorer.precision}")
    voxels = len(tiles) * np.prod(tiles.tile_zyx)
    print(f"volume {data.nbytes / 2**20:.0f} MB, {len(tiles)} tiles of {tiles.tile_zyx}")
    print(f"computed voxels / volume: {voxels / data.size:.2f}")
    print(f"peak memory {peak_mb():.0f} MB, before restoring {before:.0f} MB")
    print(f"peak / volume: {peak_mb() / (data.nbytes / 2**20):.2f}")
    print(f"{seconds:.0f} s, {data.size / seconds / 1e6:.2f} Mvoxel/s")


if __name__ == "__main__":
    main()
