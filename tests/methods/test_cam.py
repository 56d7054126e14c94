"""CAM and its relatives: sums that must hold, brute force, torchcam and Captum."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from captum.attr import LayerAttribution, LayerGradCam
from torch import nn
from torchcam.methods import CAM

import cutaway
from cutaway.core.errors import MethodRefusedError, UsageError

from .nets import FlattenNet, GapNet, picture, wrap


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_cam_adds_up_to_the_score_less_its_bias(pooling: str) -> None:
    net, x = GapNet(pooling).double().eval(), picture(1, 3, 10, 12)
    result = wrap(net).explain(x, "cam", 3)
    places = 5 * 6 if pooling == "mean" else 1
    want = places * (net(x)[0, 3] - net.fc.bias[3]).item()
    assert result.values.shape == (5, 6)
    np.testing.assert_allclose(result.values.sum(), want, rtol=1e-12)
    np.testing.assert_allclose(result.evidence["bias"], net.fc.bias[3].item(), rtol=1e-9)
    brute = np.einsum("k,khw->hw", net.fc.weight[3].detach(), net.features(x)[0].detach())
    np.testing.assert_allclose(result.values, brute, rtol=1e-12)


@pytest.mark.parametrize(("pooling", "factor"), [("mean", 30), ("sum", 1)])
def test_grad_cam_before_its_relu_is_cam_over_places(pooling: str, factor: int) -> None:
    model, x = wrap(GapNet(pooling)), picture(1, 3, 10, 12)
    cam = model.explain(x, "cam", 1).values
    grad = model.explain(x, "grad_cam", 1, layer="features", relu=False).values
    np.testing.assert_allclose(grad * factor, cam, rtol=1e-10)


def test_cam_equals_torchcam_on_resnet() -> None:
    net = torchvision.models.resnet18(weights=None).eval()
    x = picture(1, 3, 96, 96).float()
    with CAM(net, "layer4", "fc") as peer:
        net(x)
        want = peer(class_idx=11, normalized=False)[0][0].detach().numpy()
    got = wrap(net, double=False).explain(x, "cam", 11).values
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64),
        ("densenet121", 64),
        ("squeezenet1_1", 64),
        ("mobilenet_v2", 64),
        ("googlenet", 96),
        ("efficientnet_b0", 64),
        ("shufflenet_v2_x0_5", 64),
        ("regnet_y_400mf", 64),
    ],
)
def test_cam_heads_are_found_by_what_they_compute(name: str, size: int) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    net = torchvision.models.get_model(name, weights=None, **options).eval()
    x = picture(1, 3, size, size)
    result = wrap(net).explain(x, "cam", 4)
    score = net.double()(x)[0, 4].item()
    np.testing.assert_allclose(result.values.mean() + result.evidence["bias"], score, rtol=1e-9)
    last = [m for m in net.modules() if isinstance(m, nn.Linear)]
    bias = last[-1].bias[4].item() if last else 0.0
    np.testing.assert_allclose(result.evidence["bias"], bias, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "size"), [("alexnet", 80), ("mobilenet_v3_small", 64), ("convnext_tiny", 64)]
)
def test_cam_refuses_other_heads_and_says_what_to_use(name: str, size: int) -> None:
    net = torchvision.models.get_model(name, weights=None).eval()
    with pytest.raises(MethodRefusedError, match="grad_cam"):
        wrap(net, double=False).explain(picture(3, size, size).float(), "cam", 4)


def test_cam_names_the_bend_of_a_head() -> None:
    net = torchvision.models.alexnet(weights=None).eval()
    with pytest.raises(MethodRefusedError, match="is not linear: a ReLU lies in it"):
        wrap(net, double=False).explain(picture(3, 80, 80).float(), "cam", 4)


def test_cam_refuses_flatten_and_nonlinear_targets() -> None:
    with pytest.raises(MethodRefusedError, match="Flatten"):
        wrap(FlattenNet()).explain(picture(3, 8, 10), "cam", 1, layer="conv")
    with pytest.raises(MethodRefusedError, match="softmax"):
        wrap(GapNet()).explain(picture(3, 8, 10), "cam", cutaway.probability(1))


class ClassToken(nn.Module):
    """Patches and a class token; the score reads what `reads` says of them."""

    def __init__(self, reads: slice) -> None:
        super().__init__()
        self.patch, self.fc, self.reads = nn.Conv2d(3, 6, 4, stride=4), nn.Linear(6, 4), reads
        self.token, self.norm = nn.Parameter(torch.ones(1, 1, 6)), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token + tokens.mean(1, keepdim=True), tokens], 1)
        out: torch.Tensor = self.fc(self.norm(tokens)[:, self.reads].mean(1))
        return out


def test_cam_refuses_a_score_that_reads_the_class_token() -> None:
    x = picture(1, 3, 8, 12)
    for reads in (slice(0, 1), slice(0, None)):
        with pytest.raises(MethodRefusedError, match="class token"):
            wrap(ClassToken(reads)).explain(x, "cam", 1, layer="norm")
    net = ClassToken(slice(1, None)).double()
    found = wrap(net).explain(x, "cam", 1, layer="norm")
    np.testing.assert_allclose(found.values.mean() + net.fc.bias[1].item(), net(x)[0, 1].item(), rtol=1e-12)


class SideBranch(GapNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        early = self.features[:3](x)
        out: torch.Tensor = self.fc(self.features[3:](early).mean((2, 3)) + early[:, :6].mean((2, 3)))
        return out


def test_cam_refuses_a_score_that_reads_the_picture_beside_the_layer() -> None:
    with pytest.raises(MethodRefusedError, match="beside"):
        wrap(SideBranch()).explain(picture(3, 8, 10), "cam", 1, layer="features.5")


def test_grad_cam_plus_plus_survives_a_certain_network() -> None:
    net = GapNet()
    with torch.no_grad():
        net.fc.bias[2] = 40
    x = picture(1, 3, 10, 12)
    want = wrap(net).explain(x, "grad_cam_plus_plus", cutaway.probability(2), layer="features").values
    net = net.float()
    model = cutaway.VisionModel(net, cutaway.Preprocess(), name="certain")
    got = model.explain(x.float(), "grad_cam_plus_plus", cutaway.probability(2), layer="features").values
    assert want.max() > 0
    np.testing.assert_allclose(got / want.max(), want / want.max(), atol=2e-2)


def test_grad_cam_equals_brute_force_with_finite_differences() -> None:
    net = FlattenNet().double()
    x = picture(1, 3, 8, 10)
    a = F.relu(net.conv(x)).detach()
    weight = net.fc.weight[2].view(6, 8, 10).detach()  # the gradient of a linear head
    alpha = weight.mean((1, 2))
    want = (alpha[:, None, None] * a[0]).sum(0)
    got = wrap(net).explain(x, "grad_cam", 2, layer="conv")
    np.testing.assert_allclose(got.values, want.clamp(min=0), rtol=1e-12)
    against = wrap(net).explain(x, "grad_cam", 2, layer="conv", counterfactual=True)
    np.testing.assert_allclose(against.values, (-want).clamp(min=0), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "layer", "size"), [("resnet18", "layer4", 96), ("vgg11_bn", "features.27", 64)]
)
def test_grad_cam_equals_captum(name: str, layer: str, size: int) -> None:
    net = torchvision.models.get_model(name, weights=None).eval()
    for m in net.modules():
        if isinstance(m, nn.ReLU):
            m.inplace = False
    x = picture(1, 3, size, size).float()
    peer = LayerGradCam(net, net.get_submodule(layer))
    want = peer.attribute(x, target=9, relu_attributions=True)[0, 0].detach().numpy()
    got = wrap(net, double=False).explain(x, "grad_cam", 9, layer=layer).values
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    large = LayerAttribution.interpolate(torch.tensor(want)[None, None], (size, size), "bilinear")
    assert large.shape[-1] == size


def test_grad_cam_reads_conv_after_its_relu() -> None:
    """features.25 is the convolution, .26 batch norm, .27 the in-place ReLU: one activation, three names."""
    net = torchvision.models.vgg11_bn(weights=None).eval()
    model, x = wrap(net), picture(1, 3, 64, 64)
    maps = [model.explain(x, "grad_cam", 9, layer=f"features.{i}").values for i in (25, 26, 27)]
    np.testing.assert_allclose(maps[0], maps[2], rtol=1e-12)
    np.testing.assert_allclose(maps[1], maps[2], rtol=1e-12)


def weights_by_hand(net: GapNet, x: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    a = net.features(x).detach().requires_grad_()
    score = net.fc(a.pow(1.5).mean((2, 3)))[0, k]
    (g,) = torch.autograd.grad(score, a)
    return a.detach()[0].numpy(), g[0].numpy()


class Curved(GapNet):
    """A head that is not linear, so that the weights differ between positions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(self.features(x).pow(1.5).mean((2, 3)))
        return out


def test_grad_cam_plus_plus_and_layer_cam_equal_loops() -> None:
    net, x = Curved().double().eval(), picture(1, 3, 10, 12)
    a, g = weights_by_hand(net, x, 2)
    plus = np.zeros(a.shape[1:])
    layer = np.zeros(a.shape[1:])
    for k in range(len(a)):
        w = 0.0
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                below = 2 * g[k, i, j] ** 2 + a[k].sum() * g[k, i, j] ** 3
                alpha = g[k, i, j] ** 2 / below if below != 0 else 0.0
                w += alpha * max(g[k, i, j], 0)
        plus += w * a[k]
        layer += np.maximum(g[k], 0) * a[k]
    model = wrap(net)
    assert plus.max() > 0
    got = model.explain(x, "grad_cam_plus_plus", 2, layer="features").values
    np.testing.assert_allclose(got, np.maximum(plus, 0), rtol=1e-9)
    np.testing.assert_allclose(model.explain(x, "layer_cam", 2, layer="features").values, layer, rtol=1e-9)


def test_guided_grad_cam_is_the_product() -> None:
    model, x = wrap(GapNet()), picture(1, 3, 10, 12)
    coarse = torch.tensor(model.explain(x, "grad_cam", 1, layer="features").values)
    fine = model.explain(x, "guided_backprop", 1).values
    large = F.interpolate(coarse[None, None], (10, 12), mode="bilinear", align_corners=False)[0]
    got = model.explain(x, "guided_grad_cam", 1, layer="features").values
    np.testing.assert_allclose(got, large.numpy() * fine, rtol=1e-12, atol=1e-16)


def test_all_zero_map_is_flagged() -> None:
    net = GapNet().double()
    with torch.no_grad():
        net.fc.weight.abs_().neg_()
    result = wrap(net).explain(picture(3, 10, 12), "grad_cam", 1, layer="features")
    assert result.values.max() == 0
    assert any("all zero" in n for n in result.notes)


def test_layers_without_maps_and_targets_below_the_layer_are_refused() -> None:
    model, x = wrap(GapNet()), picture(3, 10, 12)
    with pytest.raises(UsageError, match="no maps"):
        model.explain(x, "grad_cam", 1, layer="fc")
    with pytest.raises(MethodRefusedError, match="does not depend on layer"):
        model.explain(x, "grad_cam", cutaway.channel("features.0", 1), layer="features.4")


def test_vision_transformer_tokens_become_a_map() -> None:
    net = torchvision.models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5).eval().double()
    x = picture(1, 3, 32, 32)
    with torch.no_grad():
        net.heads.head.weight.normal_()
    name = "encoder.layers.encoder_layer_1.ln_1"
    kept: list[torch.Tensor] = []
    hook = net.get_submodule(name).register_forward_hook(lambda m, i, o: kept.append(o) or o.retain_grad())
    net(x)[0, 3].backward()
    hook.remove()
    a, g = kept[0][0, 1:].detach(), kept[0].grad[0, 1:]
    want = (g.mean(0) * a).sum(1).view(4, 4)
    result = wrap(net).explain(x, "grad_cam", 3, relu=False)
    assert result.layer == name
    np.testing.assert_allclose(result.values, want, rtol=1e-9)
