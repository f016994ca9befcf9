"""The default model on simulated specimens that it never saw, beside classical methods at their best.

python benchmarks/held_out.py [--model default] [--device auto] [--methods noisy,gaussian,tv,rl,model]

The specimens are those that its training holds out. Gaussian, total variation and Richardson-Lucy
choose their parameters per volume with the truth in hand.
"""

import argparse
from collections import defaultdict

import numpy as np

from live_restore.evaluate import scoring
from live_restore.quality import CONVENTION
from live_restore.restore.manner import Manner
from live_restore.restore.model import load_model, shipped_model
from live_restore.restore.restorer import RcanRestorer
from live_restore.train.config import load_config
from live_restore.train.simulated import SimulatedOrigin

CLASSICAL = {
    "noisy": scoring.RAW,
    "gaussian": scoring.GAUSSIAN,
    "tv": scoring.TOTAL_VARIATION,
    "rl": scoring.RICHARDSON_LUCY,
}


def main() -> None:
    """Print a row per dose."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--attention", choices=("whole", "tile"), default="whole")
    parser.add_argument(
        "--methods", default=",".join([*CLASSICAL, "model"]), help="default: %(default)s"
    )
    options = parser.parse_args()
    config = load_config(shipped_model().with_suffix(".toml"))
    origin = SimulatedOrigin(config.simulation, config.normalisation, config.seed)
    with RcanRestorer(
        load_model(options.model),
        options.device,
        output_dtype="float32",
        manner=Manner(attention=options.attention),
    ) as restorer:
        classical = scoring.classical_methods()
        possible = {short: classical[name] for short, name in CLASSICAL.items()}
        possible["model"] = scoring.restoring(restorer)
        methods = {name: possible[name] for name in options.methods.split(",")}
        rows = defaultdict(list)
        for one in origin.held_out:
            scored = scoring.score_methods(one.pair.raw, one.pair.truth, methods)
            rows[one.name].append([(score.psnr_db, score.ssim) for score, _ in scored])
    print(f"PSNR in dB / SSIM, means over {len(rows[one.name])} specimens ({CONVENTION})")
    print(f"{'':12}", *(f"{name:>13}" for name in methods))
    for name, scores in rows.items():
        means = np.mean(scores, axis=0)
        print(f"{name:12}", *(f"{psnr:5.2f} / {ssim:.3f}" for psnr, ssim in means))


if __name__ == "__main__":
    main()
