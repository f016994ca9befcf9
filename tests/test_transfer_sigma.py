"""By how much a model sharpens: fakes whose transfer is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import ndimage

from live_restore.characterize.ladder import Pusher, Step
from live_restore.characterize.stacks import HighDose
from live_restore.characterize.transfer import measure_transfer, transfer_between
from live_restore.guard.camera import find_camera
from live_restore.simulation import Camera, Optics, Specimen
from live_restore.simulation.microscope import photon_rate
from live_restore.simulation.specimen import Grid
from tests.conftest import make_restored

CAMERA = find_camera("demo")
SHAPE = (16, 64, 64)


@dataclass
class Fake:
    """Restores what it is given as it was told to."""

    restore_counts: object

    def restore(self, volume):
        return Fakes(self.restore_counts(volume.data))


@dataclass
class Fakes:
    data: np.ndarray


class Unmoved:
    """A probe of a restoration that doesn't depend on what it is given: it follows no noise."""

    step = 0.0
    pooled = None

    def as_volume(self, counts):
        return np.full_like(counts, 200)

    def by_itself(self, counts, like):
        return np.full_like(counts, 200)


@pytest.fixture(scope="module")
def truths():
    """Noise-free photoelectrons of filaments, fine enough to show what is sharp."""
    grid = Grid(SHAPE, (0.3, 0.13, 0.13))
    return [
        photon_rate(((Specimen("filaments", seed, 1.5), 1.0),), Optics(), grid) * np.float32(250)
        for seed in (1, 2)
    ]


def stacks(truths, sigma=(0, 0, 0)):
    """High-dose stacks of the truths, blurred."""
    camera = Camera(quantum_efficiency=1.0)
    found = []
    for number, truth in enumerate(truths):
        light = np.maximum(ndimage.gaussian_filter(truth, sigma), 0)
        counts = camera.expose(light, np.random.default_rng(number))
        found.append(HighDose(str(number), str(number), "", counts, None, None))
    return found


def nothing(counts):
    return counts.astype(np.float32)


def smoothing(counts):
    return ndimage.gaussian_filter(counts.astype(np.float32), (0.5, 1, 1))


def denoising(counts):
    """With noise of its own left: blurring it would always bring it nearer to what is to be seen."""
    return 0.5 * smoothing(counts) + 0.5 * nothing(counts)


@pytest.mark.parametrize("fake", [nothing, smoothing, denoising])
def test_what_does_not_sharpen_needs_no_blur(fake, truths):
    assert measure_transfer(Fake(fake), stacks(truths), CAMERA) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("sigma", [(0.0, 1.0, 1.0), (1.0, 1.5, 1.5)])
def test_what_undoes_a_blur_is_blurred_back_by_it(sigma, truths):
    sharp = iter(truths)
    found = measure_transfer(Fake(lambda _: next(sharp)), stacks(truths, sigma), CAMERA)
    assert found[1] == found[2]
    # In plane within 10 %; along z the window of 16 planes blurs the spectrum.
    assert found[1] == pytest.approx(sigma[1], rel=0.1)
    assert found[0] == pytest.approx(sigma[0], abs=0.3)


def test_what_sharpens_is_compared_at_the_raw_sharpness(truths):
    """Without its transfer function known, a perfect restoration would look wrong, to truth and guard."""
    sigma = (0.0, 1.5, 1.5)
    (stack,) = stacks(truths[:1], sigma)
    pusher = Pusher(CAMERA)

    def restore(volume):
        data = truths[0] * np.float32(CAMERA.gain) + np.float32(CAMERA.offset)
        restored = make_restored(volume)
        pusher.examine(replace(restored, data=data), Unmoved(), 0.1)
        return Fakes(data)

    fake = Fakes(None)
    fake.restore = restore
    found = {}
    for back in ((0.0, 0.0, 0.0), sigma):
        pusher.blur_back(back)
        (found[back],) = pusher.push(fake, stack, [Step(0.5)])
    sharp, blurred = found.values()
    assert blurred.nrmse < 0.1 < 0.2 < sharp.nrmse
    assert blurred.found.error < 0.1 < 0.2 < sharp.found.error
    assert blurred.found.error == pytest.approx(blurred.nrmse, abs=0.05)


def test_gain_and_offset_of_the_restoration_do_not_matter(truths):
    raw, unseen = (one.counts for one in stacks([truths[0]] * 2, (0, 1.5, 1.5)))
    found = transfer_between(truths[0], raw, unseen)
    assert found == pytest.approx(transfer_between(7 * truths[0] + 900, raw, unseen), abs=2e-3)
    assert found[1] > 1


def test_where_there_is_nothing_nothing_is_said():
    flat = np.full(SHAPE, 100, np.uint16)
    assert transfer_between(flat, flat, flat) == (0.0, 0.0, 0.0)
    assert measure_transfer(Fake(nothing), [], CAMERA) == (0.0, 0.0, 0.0)
