"""The pooled linear head: a convex fit with one answer, and a CAM that adds up on it."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.nn.gap import fit_gap_head, retrofit_gap

CLASSES = ("red", "green", "blue")


def flat() -> VisionModel:
    """Flatten and two linear layers: a head that CAM refuses."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(6, 10, 3, padding=1), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(10 * 6 * 5, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip
    return VisionModel(
        network.eval(), Preprocess(mean=(0.5,), std=(0.25,), resize=(12, 10)), CLASSES, name="flat"
    )


def coloured(count: int) -> tuple[Tensor, list[int]]:
    """Noise in one colour each: linearly separable from the mean colour alone."""
    labels = [i % 3 for i in range(count)]
    pictures = 0.1 * torch.rand(count, 3, 12, 10)
    for i, k in enumerate(labels):
        pictures[i, k] += 0.6
    return pictures, labels


def state(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in network.state_dict().items()}


def features(model: VisionModel, pictures: Tensor, upto: int) -> Tensor:
    """The pooled maps by hand; the network in float64, normalised by hand."""
    with torch.no_grad():
        return model.network.double()[:upto]((pictures.double() - 0.5) / 0.25).mean((2, 3))


def test_separable_pictures_are_learned_and_cam_adds_up() -> None:
    model = flat()
    with pytest.raises(MethodRefusedError, match=r"cutaway\.nn\.gap"):
        model.explain(torch.rand(3, 12, 10), "cam", 0)
    pictures, labels = coloured(60)
    others, their_labels = coloured(30)
    pooled = retrofit_gap(model)
    fit = fit_gap_head(pooled, pictures, labels, held_out=(others, their_labels))
    assert fit.accuracy == 1.0
    assert fit.held_out == 1.0
    assert pooled.card["gap"]["layer"] in ("4", "5")
    for i in (0, 1, 2):
        for k in range(3):
            result = pooled.explain(pictures[i], "cam", k)
            bias = float(pooled.network.head.bias.detach()[k])
            score = float(pooled(pictures[i : i + 1]).detach()[0, k])
            h, w = result.values.shape
            assert (h, w) == (6, 5)
            assert result.values.sum() == pytest.approx(h * w * (score - bias), rel=1e-4, abs=1e-4)
            assert result.evidence["bias"] == pytest.approx(bias, rel=1e-4, abs=1e-5)
    with torch.no_grad():
        maps = model.network[:6]((pictures[:1] - 0.5) / 0.25)[0]
    expected = torch.einsum("c,chw->hw", pooled.network.head.weight[2].detach(), maps)
    np.testing.assert_allclose(
        pooled.explain(pictures[0], "cam", "blue").values, expected, rtol=1e-4, atol=1e-5
    )


def test_nothing_of_the_network_changes() -> None:
    model = flat()
    model.network.train()
    model.network[4].weight.requires_grad_(False)
    before = state(model.network)
    modes = [m.training for m in model.network.modules()]
    flags = [p.requires_grad for p in model.network.parameters()]
    print_ = model.fingerprint
    answer = None
    with model.guard(), torch.no_grad():
        answer = model(torch.full((1, 3, 12, 10), 0.3))
    pooled = retrofit_gap(model)
    pictures, labels = coloured(12)
    fit_gap_head(pooled, pictures, labels)
    pooled.explain(pictures[0], "cam", 0)
    after = model.network.state_dict()
    assert all(torch.equal(before[k].view(torch.uint8) if before[k].ndim else before[k],
                           after[k].view(torch.uint8) if after[k].ndim else after[k]) for k in before)  # fmt: skip
    assert [m.training for m in model.network.modules()] == modes
    assert [p.requires_grad for p in model.network.parameters()] == flags
    assert all(p.grad is None for p in model.network.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.network.modules())
    assert model.fingerprint == print_
    with model.guard(), torch.no_grad():
        assert torch.equal(model(torch.full((1, 3, 12, 10), 0.3)), answer)
    assert pooled.network.trunk is model.network


@pytest.mark.parametrize("decay", [1e-3, 0.1])
def test_the_fit_is_the_one_minimum_of_its_objective(decay) -> None:
    """Where mean cross-entropy + decay/2 |V|^2 is least: X'(P - Y)/n + decay V = 0, 1'(P - Y) = 0."""
    model = flat()
    pictures = torch.rand(40, 3, 12, 10)
    labels = torch.randint(0, 3, (40,))
    pooled = retrofit_gap(model, "4")
    fit = fit_gap_head(pooled, pictures, labels, weight_decay=decay)
    z = features(model, pictures, 6).numpy()
    weight = pooled.network.head.weight.detach().double().numpy()
    bias = pooled.network.head.bias.detach().double().numpy()
    spread = z.std(0)
    alive = spread > 0
    logits = z @ weight.T + bias
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    wrong = chances - np.eye(3)[labels.numpy()]
    scaled = (z[:, alive] - z.mean(0)[alive]) / spread[alive]
    slope = scaled.T @ wrong / 40 + decay * (weight[:, alive] * spread[alive]).T
    assert np.abs(slope).max() < 1e-5
    assert np.abs(wrong.mean(0)).max() < 1e-5
    assert fit.slope < 1e-7
    assert (weight[:, ~alive] == 0).all()
    entropy = -np.log(chances[np.arange(40), labels.numpy()]).mean()
    assert fit.loss == pytest.approx(entropy, rel=1e-4)
    assert fit.accuracy == (chances.argmax(1) == labels.numpy()).mean()


def test_same_pictures_same_head_whatever_the_batch() -> None:
    pictures, labels = coloured(21)
    model = flat()
    heads = []
    for batch, given in [(32, pictures), (32, pictures), (5, list(pictures)), (1, (p for p in pictures))]:
        pooled = retrofit_gap(model)
        fit_gap_head(pooled, given, [CLASSES[k] for k in labels], batch=batch)
        heads.append(pooled.network.head.weight.detach().clone())
    assert torch.equal(heads[0], heads[1])
    torch.testing.assert_close(heads[2], heads[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heads[3], heads[0], rtol=1e-4, atol=1e-5)


def test_an_unfitted_head_scores_alike_and_new_classes_have_names() -> None:
    model = flat()
    pooled = retrofit_gap(model, "4", classes=["day", "night"])
    assert pooled.classes == ("day", "night")
    assert pooled(torch.rand(2, 3, 12, 10)).tolist() == [[0, 0], [0, 0]]
    assert retrofit_gap(model, "4", classes=7)(torch.rand(1, 3, 12, 10)).shape == (1, 7)


def test_refusals() -> None:
    model = flat()
    with pytest.raises(UnknownNameError, match="conv9"):
        retrofit_gap(model, "conv9")
    with pytest.raises(UsageError, match="'7' has no rows and columns"):
        retrofit_gap(model, "7")
    with pytest.raises(UsageError, match="number of classes"):
        retrofit_gap(VisionModel(model.network, model.preprocess, name="nameless"))
    pictures, labels = coloured(6)
    with pytest.raises(UsageError, match="no head to fit"):
        fit_gap_head(model, pictures, labels)
    pooled = retrofit_gap(model)
    with pytest.raises(UsageError, match="5 labels for 6 pictures"):
        fit_gap_head(pooled, pictures, labels[:5])
    with pytest.raises(UsageError, match="label 3"):
        fit_gap_head(pooled, pictures, [0, 1, 2, 0, 1, 3])
    with pytest.raises(UsageError, match="no pictures"):
        fit_gap_head(pooled, [], [])
    with pytest.raises(UsageError, match="weight_decay=-1"):
        fit_gap_head(pooled, pictures, labels, weight_decay=-1)


def lenet(folder: Path) -> VisionModel:
    from safetensors.torch import load_file

    network = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    ).eval()  # fmt: skip
    weights = load_file(folder / "weights" / "lenet5_mnist.safetensors")
    names = {"conv1": "0", "conv2": "3", "fc1": "7", "fc2": "9", "fc3": "11"}
    network.load_state_dict(
        {f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v.float() for k, v in weights.items()}
    )
    return VisionModel(
        network, Preprocess(channels="L", resize=(28, 28)), [str(i) for i in range(10)], name="lenet5"
    )


def test_trained_lenet_on_digits(data_folder) -> None:
    """Sixteen pooled maps of a trained network tell most digits apart; a head fitted to shuffled labels does not."""
    model = lenet(data_folder)
    raw = gzip.decompress((data_folder / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    digits = torch.from_numpy(np.frombuffer(raw, np.uint8).copy()).view(-1, 1, 28, 28)[:1200].float() / 255
    read = gzip.decompress((data_folder / "mnist" / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    labels = torch.from_numpy(np.frombuffer(read, np.uint8).copy())[:1200].long()
    pooled = retrofit_gap(model)
    fit = fit_gap_head(pooled, digits[:800], labels[:800], held_out=(digits[800:], labels[800:]), batch=100)
    assert fit.accuracy > 0.75
    assert fit.held_out is not None
    assert fit.held_out > 0.7
    with torch.no_grad():
        right = (pooled(digits[800:]).argmax(1) == labels[800:]).double().mean()
    assert float(right) == pytest.approx(fit.held_out, abs=0.005)
    shuffled = labels[:800][torch.randperm(800)]
    nonsense = fit_gap_head(
        retrofit_gap(model), digits[:800], shuffled, held_out=(digits[800:], labels[800:]), batch=100
    )
    assert nonsense.held_out is not None
    assert nonsense.held_out < 0.3
    k = int(labels[801])
    result = pooled.explain(digits[801], "cam", k)
    score, bias = float(pooled(digits[801:802]).detach()[0, k]), float(pooled.network.head.bias.detach()[k])
    assert result.values.sum() == pytest.approx(result.values.size * (score - bias), rel=1e-4)
