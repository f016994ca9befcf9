import numpy as np
import pytest
import torch
from scipy import ndimage

from live_restore.restore.rcan import RCAN3D


@pytest.mark.parametrize(
    ("groups", "blocks", "parameters"),
    [(5, 3, 1_002_621), (3, 3, 613_349), (2, 3, 418_713), (5, 5, 1_559_141)],
)
def test_the_published_configurations_have_their_published_size(groups, blocks, parameters):
    network = RCAN3D(num_residual_groups=groups, num_residual_blocks=blocks)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (4, 8, 8)])
def test_the_shape_is_kept(shape):
    network = RCAN3D(num_channels=8, num_residual_groups=2, num_residual_blocks=1)
    with torch.inference_mode():
        assert network(torch.zeros(2, 1, *shape)).shape == (2, 1, *shape)


def convolve(volume, conv):
    """Cross-correlation with zero padding, by SciPy: (C, Z, Y, X) in float64."""
    weight, bias = conv.weight.detach().double().numpy(), conv.bias.detach().double().numpy()
    out = []
    for kernels, b in zip(weight, bias, strict=True):
        out.append(
            b
            + sum(
                ndimage.correlate(v, k, mode="constant")
                for v, k in zip(volume, kernels, strict=True)
            )
        )
    return np.stack(out)


def by_hand(network, volume):
    """The published description, step by step, in NumPy."""
    head = features = convolve(2 * volume[None] - 1, network.head)
    for group in network.groups:
        group_input = features
        for block in group.blocks:
            h = convolve(np.maximum(convolve(features, block.conv1), 0), block.conv2)
            pooled = h.mean(axis=(1, 2, 3))[:, None, None, None]
            weights = convolve(
                np.maximum(convolve(pooled, block.attention.reduce), 0), block.attention.expand
            )
            features = features + block.residual_scaling * h / (1 + np.exp(-weights))
        if len(network.groups) > 1:
            features = group_input + convolve(features, group.conv)
    return 0.5 * convolve(head + convolve(features, network.conv), network.tail)[0] + 0.5


@pytest.mark.parametrize(("groups", "scaling"), [(2, 1.0), (2, 0.3), (1, 1.0)])
def test_the_network_is_the_published_one(groups, scaling):
    torch.manual_seed(1)
    network = RCAN3D(
        num_channels=4,
        num_residual_groups=groups,
        num_residual_blocks=2,
        channel_reduction=2,
        residual_scaling=scaling,
    )
    volume = np.random.default_rng(0).random((5, 6, 7))
    with torch.inference_mode():
        restored = network(torch.from_numpy(volume).float()[None, None])[0, 0].numpy()
    np.testing.assert_allclose(restored, by_hand(network, volume), atol=1e-5)  # float32 sums


def test_a_single_group_has_no_closing_convolution():
    assert RCAN3D(num_residual_groups=1).groups[0].conv is None


def test_a_reduction_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="doesn't divide"):
        RCAN3D(num_channels=10, channel_reduction=8)


def test_a_small_volume_is_restored_as_in_a_batch():
    """Alone it goes another way on the processor, for PyTorch's sake."""
    torch.manual_seed(0)
    network = RCAN3D(
        num_channels=4, num_residual_groups=1, num_residual_blocks=1, channel_reduction=2
    )
    small, large = torch.rand(1, 1, 5, 9, 7), torch.rand(1, 1, 80, 80, 4)
    with torch.inference_mode():
        for volume in (small, large):
            alone, together = network(volume), network(torch.cat([volume, 1 - volume]))
            assert alone.shape == volume.shape
            torch.testing.assert_close(alone, together[:1], atol=1e-5, rtol=0)
    alone = network(small)
    alone.square().mean().backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in network.parameters())
