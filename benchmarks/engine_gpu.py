"""The engine on a GPU: what each step towards it brings, memory over many volumes, the certificate.

python benchmarks/engine_gpu.py [--shape 64,512,512] [--volumes 500] [--device cuda]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from live_restore.restore import kernels
from live_restore.restore.devices import free_bytes, open_operators
from live_restore.restore.fused import FusedOperators
from live_restore.restore.manner import Manner
from live_restore.restore.measuring import flop_per_voxel, measure_limits
from live_restore.restore.model import Architecture, Model, ModelCard, build_network, load_model
from live_restore.restore.operators import TorchOperators
from live_restore.restore.rcan import channels_last
from live_restore.restore.restorer import RcanRestorer
from live_restore.restore.sweep import PreparedNetwork, Sweep
from live_restore.volume import AcquisitionInfo, Volume, VolumeKey, utc_now

HALF = torch.float16


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="64,512,512")
    parser.add_argument("--volumes", type=int, default=500)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    nz, ny, nx = (int(size) for size in options.shape.split(","))
    device = torch.device(options.device)
    torch.backends.cudnn.benchmark = True
    model = published()
    print(f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}, {nz}x{ny}x{nx}")
    print(f"free at start: {free_bytes(device) / 2**30:.1f} GiB")
    image = torch.rand((nz, ny, nx), device=device)
    tera = flop_per_voxel(model.card.architecture) * image.numel() / 1e12
    least: float | None = None
    print(f"{'published network, float16':34}{'ms':>9}{'ratio':>8}{'TFLOP/s':>9}{'GiB':>7}")
    for name, work in contestants(model, image, device):
        torch.cuda.reset_peak_memory_stats(device)
        try:
            seconds = median(work(), device, options.repeats)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            print(f"{name:34}  {type(error).__name__}: {str(error).splitlines()[0][:70]}")
            continue
        least = least or seconds
        peak = torch.cuda.max_memory_allocated(device) / 2**30
        print(
            f"{name:34}{1e3 * seconds:9.1f}{least / seconds:8.2f}{tera / seconds:9.1f}{peak:7.1f}",
            flush=True,
        )
        torch.cuda.empty_cache()
    for one in (model, load_model("default")):
        over_time(one, (nz, ny, nx), options.device, options.volumes)


def published() -> Model:
    """The published network of default size, untrained."""
    torch.manual_seed(0)
    architecture = Architecture()
    card = ModelCard(
        name="published size",
        description="untrained",
        architecture=architecture,
        training_data="none",
        licence="none",
    )
    shipped = load_model("default")
    return Model(card, build_network(architecture).eval(), "0" * 64, shipped.path)


def contestants(
    model: Model, image: torch.Tensor, device: torch.device
) -> list[tuple[str, Callable[[], Callable[[], object]]]]:
    """Name, and what makes the work ready."""
    volume = image.to(HALF)[None, None].contiguous(memory_format=torch.channels_last_3d)

    def eager() -> Callable[[], object]:
        network = channels_last(copy.deepcopy(model.network).to(device, HALF))
        return lambda: network(volume)

    def compiled() -> Callable[[], object]:
        network = torch.compile(channels_last(copy.deepcopy(model.network).to(device, HALF)))
        return lambda: network(volume)

    def swept(operators: TorchOperators, has_graph: bool) -> Callable[[], Callable[[], object]]:
        def ready() -> Callable[[], object]:
            outer = open_operators(device, torch.float32)
            sweep = Sweep(PreparedNetwork(model.network, operators, outer), tuple(image.shape))

            def work() -> None:
                sweep.begin()
                sweep.put(0, image)
                if has_graph:
                    sweep.complete()
                else:
                    sweep.advance(image.shape[0])

            return work

        return ready

    def always(kernel: Callable[[kernels.Blocks], object], peer: Callable[[], object]):
        """The fastest of the kernels, whatever cuDNN takes."""
        timed = {}
        for blocks in kernels.BLOCKS:
            try:
                timed[blocks] = kernels.cuda_time_s(lambda blocks=blocks: kernel(blocks))
            except RuntimeError as error:
                print(f"  {blocks}: {str(error).splitlines()[0][:80]}")
        best = min(timed, key=timed.get)
        cudnn = kernels.cuda_time_s(peer)
        print(f"  {best}: {1e3 * timed[best]:.2f} ms, cuDNN {1e3 * cudnn:.2f} ms")
        return best

    plain = TorchOperators(device, HALF)
    rows = [
        ("eager", eager),
        ("torch.compile", compiled),
        ("sweep, cuDNN", swept(plain, has_graph=False)),
        ("sweep, cuDNN, CUDA graph", swept(plain, has_graph=True)),
    ]
    if kernels.is_available(device):
        rows += [
            ("sweep, Triton, CUDA graph", swept(FusedOperators(device, HALF, always), True)),
            ("sweep, as measured best, graph", swept(FusedOperators(device, HALF), True)),
        ]
    return rows


def median(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds; what is done first, compiling and recording, doesn't count."""
    seconds = []
    with torch.inference_mode():
        for number in range(repeats + 4):
            torch.cuda.synchronize(device)
            started = time.perf_counter()
            work()
            torch.cuda.synchronize(device)
            if number >= 4:
                seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def over_time(model: Model, shape: tuple[int, int, int], device: str, num: int) -> None:
    """Restore many volumes, counts in and out, and look at the memory."""
    data = np.random.default_rng(0).poisson(200, shape).astype(np.uint16)
    info = AcquisitionInfo("a", shape, data.dtype, None, ("c",))
    manner = Manner(attention="previous", normalisation="running")
    held, seconds = [], []
    with RcanRestorer(model, device, "float16", manner=manner) as restorer:
        print(f"{model.card.name}: {restorer.certificate}")
        limits = measure_limits(restorer)
        print(
            f"matmul {limits.flop_per_s / 1e12:.0f} TFLOP/s, {limits.bytes_per_s / 1e12:.2f} TB/s"
        )
        for number in range(num):
            key = VolumeKey("a", "0", number, "c")
            volume = Volume(key, info, data, None, utc_now(), time.monotonic())
            timing = restorer.restore(volume).timing_s
            seconds.append(timing["restoring"])
            held.append(torch.cuda.memory_reserved(restorer.device) / 2**20)
    print(
        f"{num} volumes: median {1e3 * statistics.median(seconds[5:]):.1f} ms, of it percentiles "
        f"{1e3 * timing['percentiles']:.1f} ms, network {1e3 * timing['network']:.1f} ms (launched, not "
        f"waited for); reserved after 10: {held[min(10, num - 1)]:.0f} MiB, at the end: {held[-1]:.0f} MiB"
    )


if __name__ == "__main__":
    main()
