"""What the guard is tried on: volumes whose truth is known, inside its envelope and outside."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from live_restore.restore.model import shipped_model
from live_restore.simulation import Camera, Optics, SimulatedMicroscope
from live_restore.simulation.grid import Grid
from live_restore.sources.stacks.tiff import TiffStack
from live_restore.train.config import load_config
from live_restore.train.simulated import simulate_volume

STACKS = Path(__file__).parents[1] / "tests" / "data"
CAMERA = Camera()
VOXEL_UM = (0.3, 0.13, 0.13)
SHAPE = (24, 144, 144)
FIRST_SEED = 500  # the envelope was made of 100 to 123
LADDER = (1.5, 3.0, 6.0, 12.0, 24.0, 48.0, 96.0)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A specimen at a dose, seen by a camera; the truth in photoelectrons."""

    group: str  # ladder, structures, real, or the name of what is wrong
    name: str
    channel: str
    truth: Floats
    expose: Callable[[np.random.Generator], NDArray[np.uint16]]
    voxel_size_um: tuple[float, float, float] | None = VOXEL_UM
    photons: float = 0.0


def of(group: str, name: str, channel: str, rate: Floats, photons: float, **more: object) -> Case:
    """An ordinary exposure."""
    light = rate * np.float32(photons)
    truth = np.float32(CAMERA.quantum_efficiency) * light
    return Case(
        group, name, channel, truth, lambda rng: CAMERA.expose(light, rng), photons=photons, **more
    )


def microscope(seed: int, **settings: object) -> SimulatedMicroscope:
    """The demonstration microscope with another specimen."""
    return SimulatedMicroscope(
        shape_zyx=SHAPE, voxel_size_um=VOXEL_UM, peak_photons=1.0, seed=seed, **settings
    )


def rate_of(seed: int, channel: str, **settings: object) -> Floats:
    """Its noise-free image, bright structures near 1."""
    scope = microscope(seed, **settings)
    return (scope.truth(0, channel) - np.float32(CAMERA.offset_counts)) / np.float32(
        CAMERA.gain_counts_per_electron * CAMERA.quantum_efficiency
    )


def inside(num: int) -> Iterator[Case]:
    """Held-out fields of the microscope that the envelope is of."""
    for seed in range(FIRST_SEED, FIRST_SEED + num):
        for channel in ("microtubules", "nuclei"):
            rate = rate_of(seed, channel)
            for photons in LADDER:
                yield of("ladder", f"{channel} {seed}", channel, rate, photons)


def structures(num: int) -> Iterator[Case]:
    """Specimens that no training saw: sheets of a gyroid, a lattice of rods, rings, random slabs."""
    grid = Grid(SHAPE, VOXEL_UM)
    for seed in range(num):
        for name, make in _STRUCTURES.items():
            rng = np.random.default_rng([seed, len(name)])
            rate = _imaged(make(grid, rng))
            for photons in LADDER:
                yield of("structures", f"{name} {seed}", name, rate, photons)


def held_out(num: int) -> Iterator[Case]:
    """Specimens of the training's kinds that it held out, of many optics and voxel sizes."""
    settings = load_config(shipped_model().with_suffix(".toml")).simulation
    settings = settings.model_copy(update={"grainy": 0.0})
    found = index = 0
    while found < num:
        rate = simulate_volume(settings, np.random.default_rng([1, 1, index]))
        index += 1
        if np.ptp(rate) > 0.1:
            found += 1
            for photons in LADDER:
                yield of("held out", f"held out {index}", "", rate, photons, voxel_size_um=None)


def real(paths: Sequence[Path] = ()) -> Iterator[Case]:
    """Real stacks as the camera would see them at a low dose."""
    for path in paths or sorted(STACKS.glob("*.tif")):
        with TiffStack(path, path.stem) as stack:
            counts = np.stack([plane.data for plane in stack.planes()]).astype(np.float32)
            voxel = stack.info.voxel_size_um
        low, high = np.percentile(counts, [1, 99.9])
        rate = np.clip((counts - low) / (high - low), 0, None)
        for photons in LADDER:
            yield of("real", path.stem, "", rate, photons, voxel_size_um=voxel)


def outside(num: int) -> Iterator[Case]:
    """What should never be called green."""
    for seed in range(FIRST_SEED + 100, FIRST_SEED + 100 + num):
        rng = np.random.default_rng(seed)
        for channel in ("microtubules", "nuclei"):
            rate = rate_of(seed, channel)
            photons = float(np.exp(rng.uniform(np.log(15), np.log(60))))
            light = rate * np.float32(photons)
            truth = np.float32(CAMERA.quantum_efficiency) * light

            def wrong(
                kind: str,
                expose: Callable[[np.random.Generator], NDArray[np.uint16]],
                truth: Floats = truth,
                voxel: tuple[float, float, float] | None = VOXEL_UM,
                seed: int = seed,
                channel: str = channel,
                photons: float = photons,
            ) -> Case:
                return Case(kind, f"{channel} {seed}", channel, truth, expose, voxel, photons)

            dim = light * np.float32(rng.uniform(0.4, 1.5) / photons)
            yield wrong("too dim", _by(CAMERA, dim), dim * np.float32(CAMERA.quantum_efficiency))
            full = float(rng.uniform(0.3, 0.6)) * float(np.percentile(light, 99.9))
            yield wrong("saturated", _saturated(light, full))
            factor = float(rng.choice([0.5, 0.67, 1.5, 2.0]))
            gain = CAMERA.gain_counts_per_electron * factor
            yield wrong("wrong gain", _by(Camera(gain_counts_per_electron=gain), light))
            yield wrong("correlated noise", _filtered(light))
            hazy = light + np.float32(photons * rng.uniform(0.5, 1.5)) * ndimage.gaussian_filter(
                rate, (6, 25, 25)
            ) / np.float32(max(ndimage.gaussian_filter(rate, (6, 25, 25)).max(), 1e-6))
            yield wrong("haze", _by(CAMERA, hazy))
            zoom = float(rng.choice([1 / 2, 1 / 1.5, 1.5, 2.0]))
            voxel = (VOXEL_UM[0], VOXEL_UM[1] * zoom, VOXEL_UM[2] * zoom)
            scope = SimulatedMicroscope(SHAPE, voxel, peak_photons=1.0, seed=seed)
            other = (scope.truth(0, channel) - 100) / np.float32(
                CAMERA.gain_counts_per_electron * CAMERA.quantum_efficiency
            )
            scaled = other.astype(np.float32) * np.float32(photons)
            # The file doesn't say so: it carries the voxel size that it should have.
            yield wrong(
                "wrong pixel size",
                _by(CAMERA, scaled),
                scaled * np.float32(CAMERA.quantum_efficiency),
            )
            sigma = float(rng.uniform(2.0, 3.5))
            yield wrong(
                "strong blur",
                _by(CAMERA, ndimage.gaussian_filter(light, (sigma / 2, sigma, sigma))),
            )
            empty = np.full(SHAPE, rng.uniform(0.2, 5.0), np.float32)
            yield wrong("empty", _by(CAMERA, empty))


def _by(camera: Camera, light: Floats) -> Callable[[np.random.Generator], NDArray[np.uint16]]:
    return lambda rng: camera.expose(light, rng)


def _saturated(light: Floats, full: float) -> Callable[[np.random.Generator], NDArray[np.uint16]]:
    most = int(CAMERA.expected_counts(np.array([full], np.float32))[0])
    return lambda rng: np.minimum(CAMERA.expose(light, rng), np.uint16(most))


def _filtered(light: Floats) -> Callable[[np.random.Generator], NDArray[np.uint16]]:
    """A camera that smooths its images."""

    def expose(rng: np.random.Generator) -> NDArray[np.uint16]:
        counts = CAMERA.expose(light, rng).astype(np.float32)
        return np.rint(ndimage.gaussian_filter(counts, (0, 0.6, 0.6))).astype(np.uint16)

    return expose


def _imaged(density: Floats) -> Floats:
    optics = Optics()
    image = optics.image(density, optics.psf((17, 25, 25), VOXEL_UM))
    padded = np.pad(image, [(8, 8), (12, 12), (12, 12)], mode="reflect")[
        : SHAPE[0], : SHAPE[1], : SHAPE[2]
    ]
    return (padded / np.float32(np.percentile(padded, 99.9)) + np.float32(0.04)).astype(np.float32)


def _axes(grid: Grid) -> list[Floats]:
    return [
        a.astype(np.float32)
        for a in np.meshgrid(
            *(np.arange(n) * v for n, v in zip(grid.shape_zyx, grid.voxel_size_um, strict=True)),
            indexing="ij",
        )
    ]


def _gyroid(grid: Grid, rng: np.random.Generator) -> Floats:
    z, y, x = _axes(grid)
    k = 2 * np.pi / rng.uniform(3.0, 7.0)
    z, y, x = (k * a + rng.uniform(0, 6) for a in (z, y, x))
    wave = np.sin(x) * np.cos(y) + np.sin(y) * np.cos(z) + np.sin(z) * np.cos(x)
    return (np.abs(wave) < rng.uniform(0.1, 0.3)).astype(np.float32)


def _lattice(grid: Grid, rng: np.random.Generator) -> Floats:
    z, y, x = _axes(grid)
    angle, pitch = rng.uniform(0, np.pi), rng.uniform(1.2, 3.0)
    u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    near = [np.abs((a / pitch) % 1 - 0.5) < 0.12 for a in (u, v, z)]
    return ((near[0] & near[1]) | (near[0] & near[2]) | (near[1] & near[2])).astype(np.float32)


def _rings(grid: Grid, rng: np.random.Generator) -> Floats:
    z, y, x = _axes(grid)
    out = np.zeros(grid.shape_zyx, np.float32)
    for _ in range(40):
        c = rng.uniform(0, grid.size_um)
        r, w = rng.uniform(0.5, 2.5), 0.15
        d = np.hypot(np.hypot(y - c[1], x - c[2]) - r, z - c[0])
        out += rng.uniform(0.4, 1.0) * np.exp(-((d / w) ** 2))
    return out


def _slabs(grid: Grid, rng: np.random.Generator) -> Floats:
    z, y, x = _axes(grid)
    out = np.zeros(grid.shape_zyx, np.float32)
    for _ in range(8):
        n = rng.normal(size=3) * (0.5, 1, 1)
        n /= np.linalg.norm(n)
        d = n[0] * z + n[1] * y + n[2] * x
        out += rng.uniform(0.3, 1) * (
            np.abs(d - rng.uniform(d.min(), d.max())) < rng.uniform(0.1, 1.0)
        )
    return out


_STRUCTURES = {"gyroid": _gyroid, "lattice": _lattice, "rings": _rings, "slabs": _slabs}
