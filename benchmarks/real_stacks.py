"""The model on real stacks at a simulated low dose, beside the best Gaussian filter.

python benchmarks/real_stacks.py [--photons 10] [--model default] [--device auto] [FILE ...]
"""

import argparse
import dataclasses
import itertools
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from live_restore.quality import CONVENTION, psnr, ssim
from live_restore.restore.model import load_model
from live_restore.restore.restorer import RcanRestorer
from live_restore.simulation import Camera
from live_restore.sources.tiff_stack import TiffStack
from live_restore.volume import Volume, VolumeKey, utc_now

STACKS = Path(__file__).parents[1] / "tests" / "data"


def main() -> None:
    """Print a row per stack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=sorted(STACKS.glob("*.tif")))
    parser.add_argument("--photons", type=float, default=10.0)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    camera = Camera()
    print(f"{'stack':32} noisy  Gauss  model | SSIM noisy model   ({CONVENTION})")
    with RcanRestorer(
        load_model(options.model), options.device, output_dtype="float32"
    ) as restorer:
        for path in options.files:
            with TiffStack(path, path.stem) as stack:
                counts = np.stack([plane.data for plane in stack.planes()]).astype(np.float32)
                info = dataclasses.replace(stack.info, dtype=np.dtype(np.uint16))
            low, high = np.percentile(counts, [1, 99.9])
            photons = np.clip((counts - low) / (high - low), 0, None) * options.photons
            truth = camera.expected_counts(photons)
            noisy = camera.expose(photons, np.random.default_rng(0))
            key = VolumeKey(path.stem, "0", 0, info.channels[0])
            restored = restorer.restore(Volume(key, info, noisy, None, utc_now(), 0.0)).data
            widths = itertools.product((0.3, 0.6, 1.0), (0.5, 0.7, 1.0, 1.4, 2.0, 2.8))
            gauss = max(
                psnr(gaussian_filter(noisy.astype(np.float32), (z * s, s, s)), truth)
                for z, s in widths
            )
            scores = [psnr(noisy, truth), gauss, psnr(restored, truth)]
            similar = [ssim(noisy, truth), ssim(restored, truth)]
            print(
                f"{path.stem[:32]:32}",
                *(f"{score:6.2f}" for score in scores),
                "|",
                *(f"{one:6.3f}" for one in similar),
            )


if __name__ == "__main__":
    main()
