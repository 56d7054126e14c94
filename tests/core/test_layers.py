"""The layer table against real forward passes, published costs and the layers people read."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.layers import LayerTable, as_map

# Built on the meta device: shapes and dataflow are all the table reads, and no weight is drawn.


def _table(name: str, size: int = 224) -> tuple[nn.Module, LayerTable]:
    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # RegNet reads numbers as it is built
        if name.startswith("timm:"):
            network: nn.Module = timm.create_model(name[5:], pretrained=False)
        else:
            options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            network = getattr(torchvision.models, name)(weights=None, **options)
        return network, LayerTable.of(network, torch.zeros(1, 3, size, size))


@pytest.mark.parametrize(
    ("name", "giga"),
    [
        ("resnet18", 1.814),
        ("resnet50", 4.089),
        ("vgg16", 15.470),
        ("mobilenet_v2", 0.301),
        ("vit_b_16", 17.56),
    ],
)
def test_published_costs(name: str, giga: float) -> None:
    # the figures torchvision publishes with its weights (_ops)
    network, table = _table(name)
    assert table.macs / 1e9 == pytest.approx(giga, abs=6e-4 if giga < 10 else 6e-3)
    own = sum(row.macs for row in table)
    tops = sum(row.total_macs for row in table if "." not in row.name)
    assert own == tops == table.macs
    assert table.parameters == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer4"),
        ("vgg16", "features.29"),
        ("alexnet", "features.11"),
        ("squeezenet1_1", "features"),
        ("googlenet", "inception5b"),
        ("inception_v3", "Mixed_7c"),
        ("densenet121", "features"),
        ("mobilenet_v2", "features"),
        ("mobilenet_v3_small", "features"),
        ("efficientnet_b0", "features"),
        ("shufflenet_v2_x0_5", "conv5"),
        ("regnet_y_400mf", "trunk_output"),
        ("convnext_tiny", "features"),
        ("swin_t", "norm"),
        ("vit_b_16", "encoder.layers.encoder_layer_11.ln_1"),
        ("timm:vit_tiny_patch16_224", "blocks.11.norm1"),
    ],
)
def test_suggested_layers(name: str, layer: str) -> None:
    _, table = _table(name, 299 if name == "inception_v3" else 224)
    suggested, reason = table.suggest()
    assert suggested == layer
    height, width = table.find(layer).grid or (0, 0)
    assert f"({height} x {width})" in reason
    assert height * width > 1
    following = {"vgg16": "max pooling", "alexnet": "max pooling", "squeezenet1_1": "scores"}
    expected = "class token" if "vit" in name else following.get(name, "average pooling")
    assert expected in reason


class Odd(nn.Module):
    """Functional ReLU, a reused module, a tuple, a parameter of the block itself, an idle layer, a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.body, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.SiLU()
        self.split, self.idle = Split(), nn.Linear(5, 5)
        self.head = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8, bias=False)
        self.tied.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = self.act(self.body(x)) + self.act(self.body(x))
        a, b = self.split(x * self.scale)
        return self.tied(self.head((a + b).mean((2, 3))))


class Split(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.max(1, keepdim=True)[0], x


def test_rows_equal_a_real_forward() -> None:
    net = Odd().eval()
    x = torch.rand(2, 3, 8, 10)
    seen: dict[str, tuple[int, ...]] = {}

    def hook(name: str) -> Any:
        def keep(module: nn.Module, args: Any, out: Any) -> None:
            seen[name] = tuple((out[0] if isinstance(out, tuple) else out).shape)

        return keep

    for name, module in net.named_modules():
        if name:
            module.register_forward_hook(hook(name))
    net(x)
    table = LayerTable.of(net, x)
    assert {row.name: row.shape for row in table} == seen
    assert [row.name for row in table] == ["stem", "norm", "body", "act", "split", "head", "tied"]
    assert table.find("body").runs == 2
    # 8 filters of 3 x 3 x 3; of 8 x 3 x 3 and a bias; a batch of two counts once, a layer that runs twice, twice
    assert table.find("stem").weights_per_unit == 27
    assert table.find("body").weights_per_unit == 73
    assert table.find("stem").macs == 8 * 80 * 27
    assert table.find("body").macs == 2 * 8 * 80 * 72
    counted = {row.name: row.parameters for row in table}
    assert counted == {"stem": 216, "norm": 16, "body": 584, "act": 0, "split": 0, "head": 72, "tied": 0}
    assert table.parameters == sum(counted.values()) + 8 + 30  # its own scale, and the layer that never runs


def test_following_activation() -> None:
    table = LayerTable.of(Odd(), torch.rand(1, 3, 8, 8))
    assert table.follow("stem") == "relu after batch_norm"
    assert table.follow("norm") == "relu"
    assert table.follow("body") == "silu"
    assert table.follow("act") is None
    assert table.follow("head") is None


def test_no_single_activation_follows() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 2, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.last(torch.cat([F.relu(x), F.relu(-x)], 1))

    table = LayerTable.of(Both(), torch.rand(1, 3, 4, 4))
    assert table.follow("conv") is None
    assert table.follow("last") is None


def test_block_totals_hold_their_parts() -> None:
    network, table = _table("resnet18")
    for row in table:
        module = network.get_submodule(row.name)
        assert row.total_parameters == sum(p.numel() for p in module.parameters())
    assert sum(row.parameters for row in table) == table.parameters


def test_attention_owns_the_projection_it_calls_by_function() -> None:
    network, table = _table("vit_b_16")
    attention = table.find("encoder.layers.encoder_layer_0.self_attention")
    module = network.get_submodule(attention.name)
    assert attention.parameters == sum(p.numel() for p in module.parameters())
    assert (
        table.parameters - sum(row.parameters for row in table) == 768
    )  # the class token of the network itself


class Layouts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.last, self.tokens, self.head = (
            nn.Conv2d(3, 5, 4, 4),
            nn.Identity(),
            nn.LayerNorm(5),
            nn.Linear(5, 2),
        )
        self.flat = nn.LayerNorm(5)
        self.token = nn.Parameter(torch.zeros(1, 2, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        y = self.flat(x.permute(0, 2, 3, 1))
        t = y.reshape(len(x), -1, 5)
        t = self.tokens(torch.cat([self.token.expand(len(x), -1, -1), t], 1))
        return self.head(t.mean(1))


def test_layouts_and_maps() -> None:
    net = Layouts().eval()
    x = torch.rand(2, 3, 12, 8)
    table = LayerTable.of(net, x)
    found = {row.name: (row.layout, row.grid, row.prefix, row.units) for row in table}
    assert found == {
        "patch": ("map", (3, 2), 0, 5),
        "flat": ("nhwc", (3, 2), 0, 5),
        "tokens": ("tokens", (3, 2), 2, 5),
        "head": ("vector", None, 0, 2),
    }
    grid = net.patch(x)
    assert torch.equal(as_map(grid, table.find("patch")), grid)
    assert torch.equal(as_map(grid.permute(0, 2, 3, 1), table.find("flat")), grid)
    tokens = torch.cat([torch.full((2, 2, 5), 9.0), grid.flatten(2).transpose(1, 2)], 1)
    assert torch.equal(as_map(tokens, table.find("tokens")), grid)
    with pytest.raises(UsageError, match="tokens"):
        as_map(tokens[:, :5], table.find("tokens"))


def test_a_small_picture_moves_the_suggestion_up() -> None:
    _, table = _table("resnet18", 32)
    assert table.find("layer4").grid == (1, 1)
    assert table.suggest()[0] == "layer3"


def test_fully_convolutional_classifier_and_functional_code() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.score = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 7, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(F.relu(self.one(x)), 2)
            x = F.relu(self.score(F.relu(self.two(x))))
            return F.adaptive_avg_pool2d(x, 1).flatten(1)

    table = LayerTable.of(Net(), torch.rand(1, 3, 16, 16))
    assert table.suggest()[0] == "two"
    assert table.last_map() == "score"


def test_no_layer_with_positions() -> None:
    table = LayerTable.of(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.rand(1, 3, 2, 2))
    with pytest.raises(MethodRefusedError, match="no layer"):
        table.suggest()


def test_last_map_is_after_pooling() -> None:
    _, table = _table("vgg16")
    assert table.last_map() == "avgpool"
    assert table.find("avgpool").grid == (7, 7)


def test_find_and_sequence() -> None:
    _, table = _table("resnet18")
    assert table[0] is table.find("conv1") is table["conv1"]
    assert table[-1].name == "fc"
    assert "layer4" in table
    assert "layer5" not in table
    assert len(table) == len(list(table)) == len(table.names)
    with pytest.raises(UnknownNameError, match="layer4"):
        table.find("layer5")


def test_global_layers_have_no_field() -> None:
    _, table = _table("mobilenet_v3_small")
    row = table.find("features")
    assert row.whole
    assert row.field is None
    assert "adaptive_avg_pool2d in features.1.block.1.avgpool" in row.note
    assert row.jump == (32, 32)
    assert table.find("avgpool").jump is None
    assert table.find("features.0").field == (3, 3)
