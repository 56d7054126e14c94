"""Networks that read one channel: the chain of kernels from the picture, and a picture from its own filters."""

import pytest
import torch
from torch import nn

import cutaway


def grey() -> cutaway.VisionModel:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3),
        nn.ReLU(),
        nn.Conv2d(12, 4, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    steps = cutaway.Preprocess(channels="L", mean=(0.5,), std=(0.25,))
    return cutaway.VisionModel(net.double(), steps, name="grey")


def test_effective_filters_of_one_channel_are_the_composed_kernels() -> None:
    model = grey()
    first, second = model.network[0].weight.detach(), model.network[2].weight.detach()
    kernel = nn.functional.conv2d(second, first.flip(2, 3).transpose(0, 1), padding=2)
    found = torch.as_tensor(model.inspect("effective_filters", layer="2").values)
    assert found.shape[-2:] == (5, 5)
    ratio = found.reshape(4, -1).norm(dim=1) / kernel.reshape(4, -1).norm(dim=1)
    cosine = nn.functional.cosine_similarity(found.reshape(4, -1), kernel.reshape(4, -1))
    assert torch.allclose(cosine, torch.ones(4).to(cosine))
    assert torch.allclose(ratio, ratio[0].expand(4))


def test_a_grey_picture_is_put_together_from_the_filters() -> None:
    u = torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(0))
    found = grey().explain(u, "sparse_coding", steps=300, lam=1e4)
    assert found.evidence["relative_error"] < 0.02
    assert found.values.mean(0) == pytest.approx(u[0].numpy(), abs=0.05)
