"""How far calibrations are from cameras that are known: photon transfer, and blind estimates from one stack.

python benchmarks/calibration.py [--repeats 40] [--seeds 11 12]

Simulated cameras with a fixed pattern of offsets and a skewed read noise expose a specimen with a wide range of
brightness. Stacks for the blind estimates: eight kinds of simulated structures, each of some seeds, and three real
stacks (their own noise smoothed away in plane), exposed by three cameras at three doses.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

from live_restore.errors import CalibrationError
from live_restore.guard.blind import estimate_blindly
from live_restore.guard.exposures import Exposures
from live_restore.guard.photon_transfer import measure_photon_transfer
from live_restore.simulation.camera import Camera
from live_restore.simulation.microscope import photon_rate
from live_restore.simulation.optics import Optics
from live_restore.simulation.specimen import Grid, Specimen

DATA = Path(__file__).parents[1] / "tests" / "data"
SIZE = 256
CAMERAS = {  # gain, offset, read noise, largest count, photoelectrons of the brighter series
    "sCMOS 16 bit": (2.17, 100, 1.6, 65535, 200),
    "sCMOS 12 bit": (0.46, 100, 1.4, 4095, 500),
    "CCD 14 bit": (1.0, 200, 6.0, 16383, 800),
    "8 bit": (0.2, 10, 4.0, 255, 100),
    "little light": (2.17, 100, 1.6, 65535, 8),
}
KINDS = (
    "filaments", "membranes", "nuclei", "vesicles", "reticulum", "compartments", "granules", "envelopes",
)  # fmt: skip
BLIND_CAMERAS = (Camera(1, 2.17, 100, 1.6), Camera(1, 0.46, 100, 1.3), Camera(1, 8.0, 400, 2.5))
DOSES = (10, 40, 200)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12])
    options = parser.parse_args()
    print("photon transfer: error in per cent (gain, read noise), stated error, z-scores' SD")
    for name, camera in CAMERAS.items():
        rows = np.array([measure(camera, seed) for seed in range(options.repeats)])
        off, stated = rows[:, 0::2], rows[:, 1::2]
        scores = (off / stated).std(axis=0)
        print(
            f"{name:14} gain {100 * np.sqrt((off[:, 0] ** 2).mean()):5.2f} ({100 * stated[:, 0].mean():.2f})"
            f"  read noise {100 * np.sqrt((off[:, 1] ** 2).mean()):5.2f} ({100 * stated[:, 1].mean():.2f})"
            f"  SD {scores[0]:.2f} {scores[1]:.2f}"
        )
    blind(options.seeds)


def measure(camera: tuple[float, float, float, int, float], seed: int) -> tuple[float, ...]:
    """Relative error and stated error of gain and of read noise, of one calibration."""
    gain, offset, read_noise, top, peak = camera
    rng = np.random.default_rng(seed)
    pattern = rng.normal(0, 1.0, (SIZE, SIZE))
    noise = np.exp(rng.normal(0, 0.3, (SIZE, SIZE)))
    noise *= read_noise / np.sqrt((noise**2).mean())
    scene = gaussian_filter(rng.standard_normal((SIZE, SIZE)), 3)
    scene = np.exp(1.5 * scene / scene.std())
    scene /= scene.mean()

    def expose(photons: float, number: int) -> Exposures:
        shape = (number, SIZE, SIZE)
        electrons = rng.poisson(photons * scene, shape) + noise * rng.standard_normal(shape)
        counts = np.clip(np.rint(offset + pattern + gain * electrons), 0, top)
        return Exposures("frames", counts.astype("u1" if top < 256 else "u2"))

    line = measure_photon_transfer([expose(0, 10)], [expose(peak / 5, 4), expose(peak, 4)]).line
    return (
        line.gain / gain - 1,
        line.gain_error / gain,
        line.read_noise / read_noise - 1,
        line.read_noise_error / read_noise,
    )


def blind(seeds: list[int]) -> None:
    """Blind estimates, by dose."""
    rates = {}
    for kind in KINDS:
        for seed in seeds:
            grid = Grid((16, 192, 192), (0.3, 0.13, 0.13))
            specimens = ((Specimen(kind, seed, 1.0), 1.0),)
            rates[f"{kind} {seed}"] = photon_rate(specimens, Optics(), grid, haze=0.04)
    for path in sorted(DATA.glob("*.tif")):
        truth = gaussian_filter(tifffile.imread(path).astype(np.float32), (0, 1, 1))
        truth = np.maximum(truth - np.percentile(truth, 0.5), 0)
        rates[f"real {path.stem}"] = truth / np.float32(np.percentile(truth, 99.9))
    found = defaultdict(list)
    for name, rate in rates.items():
        for dose in DOSES:
            for number, camera in enumerate(BLIND_CAMERAS):
                stack = camera.expose(
                    rate * np.float32(dose), np.random.default_rng([dose, number])
                )
                group = "real" if name.startswith("real") else "simulated"
                found[group, dose].append(one_blind(name, stack, camera))
    print(
        "blind: stacks, refused, warned of; error of the gain: median, largest; of the offset in e-"
    )
    for (group, dose), rows in found.items():
        tell(f"{group} {dose} photons", rows)
    tell("all", [row for rows in found.values() for row in rows])


def one_blind(name: str, stack: np.ndarray, camera: Camera) -> tuple[str, float, float]:
    """What became of an estimate, and its errors; read noise is taken as known by its order only."""
    try:
        result = estimate_blindly(name, stack)
    except CalibrationError:
        return "refused", 0.0, 0.0
    gain = camera.gain_counts_per_electron
    kind = "warned" if len(result.warnings) > 1 else "plain"
    off = result.line.gain / gain - 1
    if abs(off) > 0.15:
        print(
            f"  {name}, gain {gain}: {off:+.0%}, stated {result.line.gain_error / gain:.0%}, {kind}"
        )
    return kind, off, (result.offset - camera.offset_counts) / gain


def tell(name: str, rows: list[tuple[str, float, float]]) -> None:
    """One line."""
    text = f"{name:22} {len(rows):4}"
    for kind in ("refused", "warned", "plain"):
        text += f"  {kind} {sum(row[0] == kind for row in rows)}"
    for kind in ("plain", "warned"):
        gains = np.array([abs(row[1]) for row in rows if row[0] == kind])
        offsets = np.array([abs(row[2]) for row in rows if row[0] == kind])
        if gains.size:
            text += (
                f"  {kind}: {np.median(gains):.1%} median, {np.mean(gains < 0.15):.0%} below 15 %, {gains.max():.0%} "
                f"largest, offset {np.median(offsets):.2f}, {offsets.max():.1f}"
            )
    print(text)


if __name__ == "__main__":
    main()
