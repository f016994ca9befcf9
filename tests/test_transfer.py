"""What a GPU does to counts beside the network, on the processor with the same code."""

import numpy as np
import pytest
import torch

from live_restore.restore.device_volume import (
    DeviceOutput,
    DeviceVolume,
    HostVolume,
    open_volume,
)
from live_restore.restore.intensity import IntensityRange
from live_restore.restore.model import Normalisation
from live_restore.restore.output import CountsOutput, NotFiniteError
from live_restore.restore.transfer import Transfer

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def transfer(request):
    return Transfer(torch.device(request.param), piece_bytes=1000)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 11), (5, 20, 25), (2, 25, 20)])
def test_arrays_come_back_as_they_went(shape, dtype, transfer):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    there = transfer.upload(array)
    assert there.device.type == transfer.device.type
    back = transfer.download(there)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(
        transfer.download(transfer.upload(array[:, ::-1])), array[:, ::-1]
    )


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_counts_are_measured_and_normalised_as_on_the_processor(dtype, transfer):
    raw = np.random.default_rng(0).gamma(2, 30, (4, 9, 11)).astype(dtype)
    raw.flags.writeable = False
    norm = Normalisation()
    here, there = HostVolume(raw), DeviceVolume(raw, transfer)
    span = here.measure(norm)
    assert there.measure(norm) == span
    where = (slice(1, 3), slice(0, 9), slice(2, 7))
    image = there.image(span, where).cpu()
    torch.testing.assert_close(image, here.image(span, where), rtol=1e-6, atol=1e-7)
    assert isinstance(open_volume(raw, transfer), DeviceVolume)
    assert isinstance(open_volume(raw.astype("f4"), transfer), HostVolume)
    assert isinstance(open_volume(raw, None), HostVolume)


def test_a_volume_that_finds_no_room_is_normalised_by_the_processor(transfer, monkeypatch):
    def scarce(array):
        raise torch.OutOfMemoryError("scarce")

    monkeypatch.setattr(transfer, "upload", scarce)
    assert isinstance(open_volume(np.zeros((2, 3, 4), "u2"), transfer), HostVolume)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_counts_come_back_as_on_the_processor(dtype, transfer):
    values = torch.randn(4, 9, 11)
    span = IntensityRange(100.0, 90000.0)
    raw = np.zeros((4, 9, 11), "u2")
    here = CountsOutput(raw, span, "input", dtype)
    there = DeviceOutput((4, 9, 11), span, dtype, transfer)
    for part in (slice(0, 5), slice(5, 9)):
        where = (slice(0, 4), part, slice(0, 11))
        here.add(where, values[where])
        there.add(where, values[where].to(transfer.device))
    (wanted, _), (out, is_fitted) = here.finish(), there.finish()
    assert is_fitted
    assert out.dtype == wanted.dtype
    assert not out.flags.writeable
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_found(value, transfer):
    out = DeviceOutput((2, 3, 4), IntensityRange(0.0, 1.0), "uint16", transfer)
    values = torch.zeros(2, 3, 4, device=transfer.device)
    values[1, 2, 3] = value
    out.add((slice(0, 2), slice(0, 3), slice(0, 4)), values)
    with pytest.raises(NotFiniteError):
        out.finish()
