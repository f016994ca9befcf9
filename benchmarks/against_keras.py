"""The engine on the processor beside the published network in Keras: same weights, same volume.

python benchmarks/against_keras.py --keras-python keras-env/bin/python [--repeats 3] [--threads 2] [--only A]

A: one block, no tiles. B: a stack, here by the program as it restores every stack, in Keras with the
tiler that the network was published with. Each contestant is a process of its own that stays warm;
they take turns, and a median of each is printed, because other programs may be at work. The network
is the default one, untrained.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from keras_reference import block_starts, serve
from scipy.ndimage import gaussian_filter

from live_restore.restore.intensity import measure_range
from live_restore.restore.manner import Manner
from live_restore.restore.model import Architecture, Model, ModelCard, build_network
from live_restore.restore.rcan import RCAN3D
from live_restore.restore.restorer import RcanRestorer
from live_restore.volume import AcquisitionInfo, Volume, VolumeKey, utc_now

VARIABLE = "LIVE_RESTORE_KERAS_PYTHON"
NO_KERAS = f"""\
no Python with TensorFlow is named: give --keras-python or set {VARIABLE}. To make one:
    python3 -m venv keras-env
    keras-env/bin/pip install tensorflow-cpu
    python benchmarks/against_keras.py --keras-python keras-env/bin/python"""
OVERLAP_ZYX = 2, 32, 32  # the published default
PREDICT, FUNCTION = "Keras predict float32", "Keras tf.function float32"
TILED, FASTER = "Keras, published tiler", "Keras tf.function bfloat16"
EAGER = "PyTorch eager float32"
OURS = "live_restore "

Shape = tuple[int, int, int]


@dataclass
class Contestant:
    """A process that restores when it is asked to.

    Attributes
    ----------
    name : str
        Of its row.
    command : list of str
        Serves on its standard input and output; see `keras_reference.serve`.
    output : pathlib.Path
        Where it saves what it restored.
    took : list of dict
        Of each time.
    """

    name: str
    command: list[str]
    output: Path
    took: list[dict[str, float]] = field(default_factory=list)

    def start(self) -> None:
        """Start it and wait until it is warm."""
        self._log = self.output.with_suffix(".log")
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*self.command, str(self.output)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
            )
        self._answer()

    def run(self) -> None:
        """Let it restore once."""
        self._process.stdin.write("\n")
        self.took.append(self._answer())

    def end(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def median(self, what: str) -> float:
        """Of all times it ran."""
        return statistics.median(took[what] for took in self.took)

    def _answer(self) -> dict[str, float]:
        line = self._process.stdout.readline()
        if not line:
            log = "\n".join(self._log.read_text().splitlines()[-15:])
            sys.exit(f"{self.name} ended with {self._process.wait()}:\n{log}")
        return json.loads(line)


def shape_of(text: str) -> Shape:
    """From ``Z,Y,X``."""
    z, y, x = (int(size) for size in text.split(","))
    return z, y, x


def write_input(folder: Path, shape: Shape, options: argparse.Namespace) -> None:
    """What all contestants read: weights, the volume in counts and normalised, and settings."""
    torch.manual_seed(0)
    architecture = Architecture()
    weights = {k: v.numpy() for k, v in build_network(architecture).state_dict().items()}
    np.savez(folder / "weights.npz", **weights)
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.standard_normal(shape), (1, 3, 3), mode="nearest")
    raw = rng.poisson(20 + 200 * (smooth / smooth.std()).clip(0)).astype(np.uint16)
    np.save(folder / "raw.npy", raw)
    norm = ModelCard.model_fields["normalisation"].default
    span = measure_range(raw, norm.low_percent, norm.high_percent, norm.epsilon)
    np.save(folder / "image.npy", span.normalise(raw))
    settings = {
        "threads": options.threads,
        "size": architecture.model_dump(),
        "block": options.block,
        "overlap": OVERLAP_ZYX,
    }
    (folder / "settings.json").write_text(json.dumps(settings))


def load_network(folder: Path) -> RCAN3D:
    """The network with the weights that all have."""
    network = build_network(Architecture()).eval()
    with np.load(folder / "weights.npz") as weights:
        network.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    return network


def contest(folder: Path, how: str, output: Path) -> None:
    """Be a contestant: PyTorch's own way through the network, or this program in one precision."""
    torch.set_num_threads(json.loads((folder / "settings.json").read_text())["threads"])
    network = load_network(folder)
    if how == "eager":
        image = torch.from_numpy(np.load(folder / "image.npy"))[None, None]

        @torch.inference_mode()
        def eager() -> np.ndarray:
            return network(image)[0, 0].numpy()

        eager()
        serve(eager, output)
        return
    card = ModelCard(
        name="untrained",
        description="",
        architecture=Architecture(),
        training_data="none",
        licence="none",
    )
    raw = np.load(folder / "raw.npy")
    info = AcquisitionInfo("a", raw.shape, raw.dtype, None, ("c",))
    # What bfloat16 makes of an untrained network is printed, and no reason to refuse it.
    manner = Manner(largest_difference=1.0)
    model = Model(card, network, "", Path())
    norm = card.normalisation
    span = measure_range(raw, norm.low_percent, norm.high_percent, norm.epsilon)
    with RcanRestorer(model, "cpu", how, "float32", manner) as restorer:

        def restore() -> np.ndarray:
            key = VolumeKey("a", "0", 0, "c")
            volume = Volume(key, info, raw, None, utc_now(), time.monotonic())
            return restorer.restore(volume).data

        restore()
        if (num_tiles := len(restorer.plan(raw.shape))) > 1:
            sys.exit(f"{num_tiles} tiles are needed: there is too little free memory to compare")
        serve(restore, output)
        np.save(output, span.normalise(np.load(output)))


def race(contestants: list[Contestant], options: argparse.Namespace) -> None:
    """Let them take turns."""
    for one in contestants:
        one.start()
    for _ in range(options.repeats):
        for one in contestants:
            one.run()
    for one in contestants:
        one.end()


def print_table(contestants: list[Contestant], reference: Contestant) -> None:
    """A row each; ratios above 1 are faster than the reference."""
    wanted = np.load(reference.output)
    width = float(np.ptp(wanted))
    print(f"{'':26} {'s':>7} {'CPU s':>7} {'ratio':>6} {'of CPU':>6} {'peak MB':>8}", end="")
    print("  difference / range: largest, mean")
    for one in contestants:
        ratios = [reference.median(what) / one.median(what) for what in ("s", "cpu_s")]
        differ = np.abs(np.load(one.output) - wanted) / width
        print(
            f"{one.name:26} {one.median('s'):7.1f} {one.median('cpu_s'):7.1f} "
            f"{ratios[0]:6.2f} {ratios[1]:6.2f} {one.took[-1]['peak_mb']:8.0f}  "
            f"{differ.max():.1e}, {differ.mean():.1e}",
            flush=True,
        )
    times = "; ".join(
        f"{one.name} " + ", ".join(f"{took['s']:.1f}" for took in one.took) for one in contestants
    )
    print(f"each time, s: {times}")
    print(f"load averages {', '.join(f'{load:.1f}' for load in os.getloadavg())}\n", flush=True)


def main() -> None:
    """Print a table for A and one for B."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keras-python", default=os.environ.get(VARIABLE), metavar="PATH")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shape", type=shape_of, default="32,256,256", help="of A")
    parser.add_argument("--stack", type=shape_of, default="12,512,512", help="of B")
    parser.add_argument("--block", type=shape_of, default="12,256,256", help="of B in Keras")
    parser.add_argument("--only", choices=["A", "B"])
    parser.add_argument("--contest", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contest:
        folder, how, output = options.contest
        contest(Path(folder), how, Path(output))
        return
    if not options.keras_python:
        parser.error(NO_KERAS)
    if shutil.which(options.keras_python) is None:
        parser.error(f"{options.keras_python} can't be run: check --keras-python or {VARIABLE}")
    print(f"{options.threads} threads, {options.repeats} repeats, PyTorch {torch.__version__}")
    print(f"load averages {', '.join(f'{load:.1f}' for load in os.getloadavg())}\n", flush=True)
    if options.only != "B":
        compare_block(options)
    if options.only != "A":
        compare_stack(options)


def compare_block(options: argparse.Namespace) -> None:
    """A."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_input(folder, options.shape, options)
        keras = [
            keras_contestant(options, PREDICT, folder, "predict"),
            keras_contestant(options, FUNCTION, folder, "function"),
        ]
        others = [
            keras_contestant(options, FASTER, folder, "bfloat16"),
            our_contestant(EAGER, folder, "eager"),
            our_contestant(OURS + "float32", folder, "float32"),
            our_contestant(OURS + "bfloat16", folder, "bfloat16"),
        ]
        race(keras + others, options)
        print(f"A: one block of {options.shape}; ratios to the faster way of Keras, float32")
        print_table(keras + others, min(keras, key=lambda one: one.median("s")))


def compare_stack(options: argparse.Namespace) -> None:
    """B."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_input(folder, options.stack, options)
        keras = keras_contestant(options, TILED, folder, "function", "--tiled")
        ours = [
            our_contestant(OURS + "float32", folder, "float32"),
            our_contestant(OURS + "bfloat16", folder, "bfloat16"),
        ]
        race([keras, *ours], options)
        starts = block_starts(options.stack, options.block, OVERLAP_ZYX)
        computed = len(starts) * np.prod(options.block) / np.prod(options.stack)
        print(
            f"B: a stack of {options.stack}; Keras: {len(starts)} blocks of {options.block}, "
            f"{computed:.2f} times the stack.\nResults differ at its far edges and in its last slices, "
            "which it pads by reflection, and by the attention of each block"
        )
        print_table([keras, *ours], keras)


def keras_contestant(
    options: argparse.Namespace, name: str, folder: Path, how: str, *more: str
) -> Contestant:
    """A way to run Keras."""
    script = Path(__file__).with_name("keras_reference.py")
    command = [options.keras_python, str(script), *more, str(folder), how]
    return Contestant(name, command, folder / f"keras_{how}.npy")


def our_contestant(name: str, folder: Path, how: str) -> Contestant:
    """A way to run PyTorch."""
    command = [sys.executable, __file__, "--contest", str(folder), how]
    return Contestant(name, command, folder / f"{how}.npy")


if __name__ == "__main__":
    main()
