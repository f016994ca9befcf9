"""The model on real stacks at a simulated low dose, beside classical methods at their best.

python benchmarks/real_stacks.py [--photons 10] [--model default] [--device auto]
    [--methods noisy,gaussian,tv,rl,model,bm4d] [FILE ...]

Gaussian, total variation and Richardson-Lucy choose their parameters with the truth in hand. BM4D
knows the camera exactly. It runs where ``pip install bm4d`` was run; its licence allows
non-commercial use only, so that nothing else here knows it.
"""

import argparse
import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.evaluate import scoring
from live_restore.evaluate.baselines import Filtered
from live_restore.quality import CONVENTION
from live_restore.restore.manner import Manner
from live_restore.restore.model import load_model
from live_restore.restore.restorer import RcanRestorer
from live_restore.simulation import Camera
from live_restore.sources.stacks.tiff import TiffStack

STACKS = Path(__file__).parents[1] / "tests" / "data"
CAMERA = Camera()
CLASSICAL = {
    "noisy": scoring.RAW,
    "gaussian": scoring.GAUSSIAN,
    "tv": scoring.TOTAL_VARIATION,
    "rl": scoring.RICHARDSON_LUCY,
}
METHODS = [*CLASSICAL, "model", "bm4d"]


def bm4d(noisy: NDArray[Any], truth: NDArray[Any]) -> Filtered:  # noqa: ARG001
    """BM4D between the generalised Anscombe transform of the known camera and its exact inverse.

    The closed form of the exact unbiased inverse is of Mäkitalo and Foi, IEEE TIP 22, 91 (2013),
    equation 9.
    """
    import bm4d as package

    variance = CAMERA.read_noise_electrons**2
    electrons = (noisy.astype(np.float64) - CAMERA.offset_counts) / CAMERA.gain_counts_per_electron
    stabilised = 2 * np.sqrt(np.maximum(electrons + 3 / 8 + variance, 0))
    d = np.maximum(package.bm4d(stabilised, 1.0), 2 * np.sqrt(3 / 8 + variance))
    root = np.sqrt(3 / 2)
    inverse = d**2 / 4 + root / (4 * d) - 11 / (8 * d**2) + 5 * root / (8 * d**3) - 1 / 8 - variance
    return Filtered(np.maximum(inverse, 0))


def thinned(path: Path, photons: float) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """A stack as the camera would see it at a given peak dose, and the same without noise."""
    with TiffStack(path, path.stem) as stack:
        counts = np.stack([plane.data for plane in stack.planes()]).astype(np.float32)
    low, high = np.percentile(counts, [1, 99.9])
    rate = np.clip((counts - low) / (high - low), 0, None) * photons
    return CAMERA.expose(rate, np.random.default_rng(0)), CAMERA.expected_counts(rate)


def main() -> None:
    """Print a row per stack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=sorted(STACKS.glob("*.tif")))
    parser.add_argument("--photons", type=float, default=10.0)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--attention", choices=("whole", "tile"), default="whole")
    parser.add_argument("--methods", default=",".join(METHODS), help="default: %(default)s")
    options = parser.parse_args()
    wanted = options.methods.split(",")
    if unknown := set(wanted) - set(METHODS):
        parser.error(f"--methods: {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}")
    with RcanRestorer(
        load_model(options.model),
        options.device,
        output_dtype="float32",
        manner=Manner(attention=options.attention),
    ) as restorer:
        classical = scoring.classical_methods()
        possible = {
            short: classical[name] for short, name in CLASSICAL.items() if name in classical
        }
        possible["model"] = scoring.restoring(restorer)
        if importlib.util.find_spec("bm4d"):
            possible["bm4d"] = bm4d
        methods = {name: possible[name] for name in wanted if name in possible}
        if missing := [name for name in wanted if name not in possible]:
            print(f"left out, not installed: {', '.join(missing)}")
        print(f"PSNR in dB / SSIM at {options.photons:g} photons ({CONVENTION})")
        print(f"{'stack':32}", *(f"{name:>13}" for name in methods))
        scores = []
        for path in options.files:
            started = time.monotonic()
            row = [
                one for one, _ in scoring.score_methods(*thinned(path, options.photons), methods)
            ]
            scores.append(row)
            figures = (f"{one.psnr_db:5.2f} / {one.ssim:.3f}" for one in row)
            print(
                f"{path.stem[:32]:32}",
                *figures,
                f" {time.monotonic() - started:5.0f} s",
                flush=True,
            )
        means = (
            f"{np.mean([one.psnr_db for one in column]):5.2f} / "
            f"{np.mean([one.ssim for one in column]):.3f}"
            for column in zip(*scores, strict=True)
        )
        print(f"{'mean':32}", *means)


if __name__ == "__main__":
    main()
