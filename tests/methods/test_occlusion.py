"""Occlusion against loops over pictures built by hand, closed forms and Captum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from torch import Tensor, nn

from cutaway.core.errors import MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.method import get
from cutaway.core.model import VisionModel
from cutaway.core.preprocess import Preprocess
from cutaway.core.progress import Progress, finish
from cutaway.core.run import explain
from cutaway.core.target import channel, custom, logit, predicted, probability, unit
from cutaway.methods.perturbation.grid import lay

H, W = 14, 11
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CLASSES = ("ant", "bee", "cow", "dog")


class Small(nn.Module):
    """Two convolutions, two poolings, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.relu(self.conv2(x))
        return self.fc(x.mean((2, 3)) * 6)


class Smooth(Small):
    """The same without a ReLU that a backward rule could act on."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.GELU()  # type: ignore[assignment]


class Answer(Small):
    """Gives one-hot answers: nothing to differentiate."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(super().forward(x).argmax(1), 4).to(x)


@pytest.fixture
def model() -> VisionModel:
    return VisionModel(Small().double().eval(), Preprocess(mean=MEAN, std=STD), CLASSES, name="small")


@pytest.fixture
def x() -> Tensor:
    return torch.rand(1, 3, H, W, dtype=torch.float64)


def run(model: VisionModel, x: Tensor, target=None, seed: int = 0, **options):
    return finish(explain(model, get("occlusion"), x, target, options, seed=seed))


def loop(score, x: Tensor, fill: np.ndarray, spans_down, spans_across) -> tuple[np.ndarray, np.ndarray]:
    """Brute force: scores at every position, and per pixel the mean drop over covering windows."""
    clean = score(x)
    total, count = np.zeros(x.shape[2:]), np.zeros(x.shape[2:])
    grid = np.zeros((len(spans_down), len(spans_across)))
    for a, (top, bottom) in enumerate(spans_down):
        for b, (left, right) in enumerate(spans_across):
            hidden = x.clone()
            for i in range(top, bottom):
                for j in range(left, right):
                    hidden[0, :, i, j] = torch.from_numpy(fill[:, i, j])
            grid[a, b] = score(hidden)
            for i in range(top, bottom):
                for j in range(left, right):
                    total[i, j] += clean - grid[a, b]
                    count[i, j] += 1
    return total / np.maximum(count, 1), grid


def network(model: VisionModel, x: Tensor) -> Tensor:
    """The network on pixels, normalised by hand."""
    mean, std = (torch.tensor(v, dtype=x.dtype).view(1, 3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        return model.network((x - mean) / std)


CLAMPED = ([(0, 4), (3, 7), (6, 10), (9, 13), (10, 14)], [(0, 4), (3, 7), (6, 10), (7, 11)])
CLIPPED = ([(0, 4), (3, 7), (6, 10), (9, 13), (12, 14)], [(0, 4), (3, 7), (6, 10), (9, 11)])
GREY = np.full((3, H, W), 0.5)


@pytest.mark.parametrize(("edges", "spans"), [("clamp", CLAMPED), ("clip", CLIPPED)])
@pytest.mark.parametrize(("fill", "level"), [("grey", 0.5), ("black", 0.0), ("white", 1.0)])
def test_brute_force(model, x, edges, spans, fill, level) -> None:
    (result,) = run(model, x, logit(2), window=4, stride=3, fill=fill, edges=edges)
    filled = np.full((3, H, W), level)
    heat, _ = loop(lambda p: float(network(model, p)[0, 2]), x, filled, *spans)
    np.testing.assert_allclose(result.values, heat, rtol=1e-10, atol=1e-12)
    assert result.signed
    assert result.unit == "drop of the target"


def test_mean_fill_is_the_mean_colour_of_the_picture(model, x) -> None:
    (result,) = run(model, x, logit(0), window=4, stride=3, fill="mean")
    colour = np.tile(x[0].numpy().mean((1, 2))[:, None, None], (1, H, W))
    heat, _ = loop(lambda p: float(network(model, p)[0, 0]), x, colour, *CLAMPED)
    np.testing.assert_allclose(result.values, heat, rtol=1e-10, atol=1e-12)


def test_blur_fill_is_a_gaussian_of_half_a_window(model, x) -> None:
    (result,) = run(model, x, logit(0), window=4, stride=3, fill="blur")
    weights = np.array([np.exp(-(d**2) / (2 * 2.0**2)) for d in range(-6, 7)])
    weights /= weights.sum()
    blurred = np.zeros((3, H, W))
    for i in range(H):
        for j in range(W):
            for di in range(-6, 7):
                for dj in range(-6, 7):
                    pixel = x[0, :, min(max(i + di, 0), H - 1), min(max(j + dj, 0), W - 1)].numpy()
                    blurred[:, i, j] += weights[di + 6] * weights[dj + 6] * pixel
    heat, _ = loop(lambda p: float(network(model, p)[0, 0]), x, blurred, *CLAMPED)
    np.testing.assert_allclose(result.values, heat, rtol=1e-10, atol=1e-12)


def test_noise_fill_comes_from_the_seed_and_leaves_the_callers_generator(model, x) -> None:
    state = torch.get_rng_state()
    (first,) = run(model, x, logit(0), seed=3, window=4, stride=3, fill="noise")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    noise = torch.rand(1, 3, H, W)[0].double().numpy()
    heat, _ = loop(lambda p: float(network(model, p)[0, 0]), x, noise, *CLAMPED)
    np.testing.assert_allclose(first.values, heat, rtol=1e-10, atol=1e-12)
    (other,) = run(model, x, logit(0), seed=4, window=4, stride=3, fill="noise")
    assert np.abs(other.values - first.values).max() > 1e-4


def test_linear_network_gives_a_box_filter(x) -> None:
    """On S = <w, u> a window's drop is the sum of w (u - fill) in it; the map is its mean over covering windows."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * H * W, 2, bias=True)).double()
    model = VisionModel(linear, Preprocess(mean=MEAN, std=STD), name="linear")
    (result,) = run(model, x, logit(1), window=3, stride=1)
    w = linear[1].weight[1].detach().view(3, H, W) / torch.tensor(STD, dtype=torch.float64).view(3, 1, 1)
    parts = (w * (x[0] - 0.5)).sum(0)[None, None]
    drops = nn.functional.avg_pool2d(parts, 3, 1) * 9
    ones = torch.ones_like(drops)
    kernel = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    mean = nn.functional.conv_transpose2d(drops, kernel) / nn.functional.conv_transpose2d(ones, kernel)
    np.testing.assert_allclose(result.values, mean[0, 0].numpy(), rtol=1e-10, atol=1e-12)
    k = int(drops.argmax())
    row, col = divmod(k, W - 2)
    assert result.evidence["largest drop box"] == [row, col, row + 3, col + 3]
    assert result.evidence["largest drop"] == pytest.approx(float(drops.max()), rel=1e-12)


@pytest.mark.parametrize(("window", "stride"), [(4, 3), (5, 2), (3, 3), (14, 1)])
def test_captum_agrees(model, window, stride) -> None:
    square = torch.rand(1, 3, 14, 14)
    small = VisionModel(model.network.float(), model.preprocess, CLASSES, name="small")
    (result,) = run(small, square, logit(1), window=window, stride=stride, edges="clip")
    peer = Occlusion(lambda p: small(p))
    expected = peer.attribute(
        square,
        sliding_window_shapes=(3, window, window),
        strides=(3, stride, stride),
        baselines=0.5,
        target=1,
    )
    np.testing.assert_allclose(result.values, expected[0, 0].detach().numpy(), rtol=1e-5, atol=1e-5)


def test_targets_of_every_kind(model, x) -> None:
    """Hidden units, differences, probabilities, functions: against the same network spelled by hand."""

    def hidden(p: Tensor) -> Tensor:
        net = model.network
        mean, std = (torch.tensor(v, dtype=p.dtype).view(1, 3, 1, 1) for v in (MEAN, STD))
        with torch.no_grad():
            first = net.pool(net.conv1((p - mean) / std).clamp(min=0))
            return net.conv2(first).clamp(min=0)[0]

    cases = [
        (unit("conv2", 5, 3, 2), lambda p: float(hidden(p)[5, 3, 2])),
        (
            channel("conv2", 1) - 2 * logit(3),
            lambda p: float(hidden(p)[1].mean() - 2 * network(model, p)[0, 3]),
        ),
        (probability("dog"), lambda p: float(network(model, p)[0].softmax(0)[3])),
        (custom(lambda out: out.max(1).values), lambda p: float(network(model, p).max())),
    ]
    for target, score in cases:
        for panels in (True, False):
            (result,) = run(model, x, target, window=4, stride=3, panels=panels)
            heat, _ = loop(score, x, GREY, *CLAMPED)
            np.testing.assert_allclose(result.values, heat, rtol=1e-10, atol=1e-12)
            assert result.evidence["score"] == pytest.approx(score(x), rel=1e-12)


def test_output_without_gradient(x) -> None:
    model = VisionModel(Answer().double().eval(), Preprocess(mean=MEAN, std=STD), CLASSES, name="answer")
    target = int(network(model, x)[0].argmax())
    (result,) = run(model, x, window=7, stride=1)
    spans = [(i, i + 7) for i in range(8)], [(i, i + 7) for i in range(5)]
    heat, _ = loop(lambda p: float(network(model, p)[0, target]), x, GREY, *spans)
    np.testing.assert_allclose(result.values, heat, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activity", ["sum", "mean", "max"])
def test_panels_against_direct_evaluation(model, x, activity) -> None:
    (result,) = run(model, x, logit(1), window=4, stride=3, layer="conv2", activity=activity)

    def maps(p: Tensor) -> np.ndarray:
        net = model.network
        mean, std = (torch.tensor(v, dtype=p.dtype).view(1, 3, 1, 1) for v in (MEAN, STD))
        with torch.no_grad():
            first = net.pool(net.conv1((p - mean) / std).clamp(min=0))
            return net.conv2(first).clamp(min=0)[0].numpy()

    reduce = {"sum": np.sum, "mean": np.mean, "max": np.max}[activity]
    strongest = int(np.argmax([reduce(m) for m in maps(x)]))
    assert result.evidence["map"] == f"conv2:{strongest}"
    assert result.evidence["map activity"] == pytest.approx(reduce(maps(x)[strongest]), rel=1e-12)
    _, sums = loop(lambda p: reduce(maps(p)[strongest]), x, GREY, *CLAMPED)
    _, chances = loop(lambda p: float(network(model, p)[0].softmax(0)[1]), x, GREY, *CLAMPED)
    _, winners = loop(lambda p: float(network(model, p)[0].argmax()), x, GREY, *CLAMPED)
    np.testing.assert_allclose(result.panels["activity"].values, sums, rtol=1e-10)
    np.testing.assert_allclose(result.panels["probability"].values, chances, rtol=1e-10)
    np.testing.assert_array_equal(result.panels["most_probable"].values, winners)
    assert result.panels["most_probable"].labels == {int(k): CLASSES[int(k)] for k in np.unique(winners)}
    assert result.evidence["class"] == "bee"


def test_most_probable_names_several_classes(model) -> None:
    """A network that reads the mean red of one half: covering that half changes its mind."""

    class Halves(nn.Module):
        def forward(self, p: Tensor) -> Tensor:
            red = p[:, 0]
            return torch.stack([red[:, :, :4].mean((1, 2)), red[:, :, 4:].mean((1, 2))], 1)

    x = torch.zeros(1, 3, 8, 8)
    x[:, 0, :, :4] = 1.0
    x[:, 0, :, 4:] = 0.8
    model = VisionModel(Halves(), Preprocess(), ["left", "right"], name="halves")
    (result,) = run(model, x, window=4, stride=4, fill="black")
    # a quarter under a window takes half of its side's mean: left falls to 0.5 < 0.8, right to 0.4 < 1
    assert result.panels["most_probable"].values.tolist() == [[1, 0], [1, 0]]
    assert result.panels["most_probable"].labels == {0: "left", 1: "right"}
    assert result.panels["probability"].values[0, 0] == pytest.approx(1 / (1 + np.exp(0.3)), rel=1e-6)
    np.testing.assert_allclose(result.values[:, :4], 0.5, rtol=1e-6)
    np.testing.assert_allclose(result.values[:, 4:], 0.0, atol=1e-7)
    assert "projection" not in result.panels
    assert any("no panel of a map's activity" in n or "no deconvnet projection" in n for n in result.notes)


def test_projection_panel_is_the_deconvnet_of_the_strongest_map(model, x) -> None:
    """Down through conv2, its ReLU, the switches of the pooling, conv1: written out with its own operators."""
    (result,) = run(model, x, logit(1), window=7, layer="conv2")
    k = int(result.evidence["map"].rpartition(":")[2])
    net = model.network
    mean, std = (torch.tensor(v, dtype=x.dtype).view(1, 3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        first = net.conv1((x - mean) / std).clamp(min=0)
        pooled, switches = nn.functional.max_pool2d(first, 2, return_indices=True)
        top = net.conv2(pooled).clamp(min=0)
        signal = torch.zeros_like(top)
        signal[:, k] = top[:, k]
        down = nn.functional.conv_transpose2d(signal.clamp(min=0), net.conv2.weight, padding=1)
        down = nn.functional.max_unpool2d(down, switches, 2, output_size=first.shape)
        down = nn.functional.conv_transpose2d(down.clamp(min=0), net.conv1.weight, padding=1) / std
    np.testing.assert_allclose(result.panels["projection"].values, down[0].numpy(), rtol=1e-10, atol=1e-12)


def test_a_map_of_scores_has_no_class_panels(x) -> None:
    """A segmenting network: the target is the sum of its class map, and there is no one probability."""
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1)).double().eval()
    model = VisionModel(network, Preprocess(mean=MEAN, std=STD), CLASSES, name="segmenter")
    (result,) = run(model, x, logit(2), window=4, stride=3, layer="0")
    mean, std = (torch.tensor(v, dtype=x.dtype).view(1, 3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        heat, _ = loop(lambda p: float(network((p - mean) / std)[0, 2].sum()), x, GREY, *CLAMPED)
    np.testing.assert_allclose(result.values, heat, rtol=1e-10, atol=1e-12)
    assert set(result.panels) == {"activity", "projection"}
    assert any("no panels of class probabilities" in n for n in result.notes)


def test_an_undecided_class_is_refused() -> None:
    with pytest.raises(UsageError, match="not decided"):
        predicted().alone(0)


def test_no_projection_is_said_and_the_rest_stays(x) -> None:
    model = VisionModel(Smooth().double().eval(), Preprocess(mean=MEAN, std=STD), CLASSES, name="smooth")
    (result,) = run(model, x, logit(1), window=4, stride=3)
    assert set(result.panels) == {"activity", "probability", "most_probable"}
    assert any(n.startswith("no deconvnet projection") for n in result.notes)


def test_without_panels(model, x) -> None:
    (result,) = run(model, x, logit(1), window=4, stride=3, panels=False)
    assert result.panels == {}


def test_four_pictures_are_four_times_one(model) -> None:
    batch = torch.rand(4, 3, H, W, dtype=torch.float64)
    classes = logit(torch.tensor([0, 3, 2, 1])), probability(torch.tensor([1, 1, 2, 0]))
    for target, fill in zip((None, *classes), ("noise", "mean", "blur"), strict=True):
        together = run(model, batch, target, window=4, stride=3, fill=fill)
        for i, got in enumerate(together):
            one = target
            if target is not None:
                reader = target.terms[0][1]
                make = logit if "logit" in target.label() else probability
                one = make(int(reader.index[i]))
            (alone,) = run(model, batch[i : i + 1], one, window=4, stride=3, fill=fill)
            np.testing.assert_allclose(got.values, alone.values, rtol=1e-12, atol=1e-14)
            assert got.target.split("'")[0].strip() == alone.target.split("'")[0].strip()
            for name, panel in alone.panels.items():
                np.testing.assert_allclose(got.panels[name].values, panel.values, rtol=1e-12, atol=1e-14)
            for key in ("score", "largest drop", "largest drop box", "map", "class"):
                assert got.evidence[key] == alone.evidence[key]


def test_preview_grows_into_the_result(model, x) -> None:
    seen: list[Progress] = []
    double = torch.cat([x, x.flip(3)])
    results = finish(
        explain(model, get("occlusion"), double, logit(1), {"window": 3, "stride": 1}), seen.append
    )
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total == 2 * 12 * 9
    last_of_first = next(p for p in seen if p.done == 12 * 9)
    np.testing.assert_allclose(last_of_first.preview, results[0].values, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(seen[-1].preview, results[1].values, rtol=1e-6, atol=1e-7)


def test_gaps_are_said(model, x) -> None:
    (result,) = run(model, x, logit(1), window=2, stride=4)
    # rows 0-1, 4-5, 8-9, 12-13 and columns 0-1, 4-5, 8-9, 9-10 are covered: 8 of 14 and 7 of 11
    uncovered = 14 * 11 - 8 * 7
    assert any(f"{uncovered} of 154 pixels lie under no window" in n for n in result.notes)
    assert (result.values[2:4] == 0).all()
    (dense,) = run(model, x, logit(1), window=4, stride=4)
    assert not any("no window" in n for n in dense.notes)


def test_default_window_is_said(model) -> None:
    (result,) = run(model, torch.rand(1, 3, 28, 40, dtype=torch.float64), logit(1), panels=False)
    assert any("window 4, stride 2" in n and "middle grey" in n for n in result.notes)
    assert result.evidence["windows"] == 13 * 19


def test_refusals(model, x) -> None:
    with pytest.raises(UsageError, match="window of 12x12 pixels on a picture of 14x11"):
        run(model, x, logit(1), window=12)
    with pytest.raises(UsageError, match="window=0"):
        run(model, x, logit(1), window=0)
    with pytest.raises(UsageError, match="stride=0"):
        run(model, x, logit(1), stride=0)
    with pytest.raises(UsageError, match="'pink'"):
        run(model, x, logit(1), fill="pink")
    with pytest.raises(UnknownNameError, match="conv9"):
        run(model, x, logit(1), layer="conv9")


@pytest.mark.parametrize("edges", ["clamp", "clip"])
def test_grid_covers_every_pixel_unless_the_stride_is_larger(edges) -> None:
    for length in range(1, 12):
        for window in range(1, length + 1):
            for stride in range(1, window + 1):
                grid = lay((length, length), window, stride, edges)
                assert grid.uncovered == 0
                assert all(0 <= a < b <= length for a, b in grid.rows)
                assert len(set(grid.rows)) == len(grid.rows)


def test_photograph_on_a_trained_network(data_folder) -> None:
    """LeNet reads a digit: the map and the panels against direct evaluation at a few positions."""
    import gzip

    from safetensors.torch import load_file

    lenet = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    ).eval()
    state = load_file(data_folder / "weights" / "lenet5_mnist.safetensors")
    names = {"conv1": "0", "conv2": "3", "fc1": "7", "fc2": "9", "fc3": "11"}
    lenet.load_state_dict(
        {f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v.float() for k, v in state.items()}
    )
    (path,) = (data_folder / "mnist").glob("*images*")
    digit = np.frombuffer(gzip.decompress(path.read_bytes())[16:], np.uint8)[:784].reshape(1, 1, 28, 28)
    x = torch.from_numpy(digit.copy()).float() / 255
    model = VisionModel(lenet, Preprocess(channels="L"), [str(i) for i in range(10)], name="lenet5")
    (result,) = run(model, x, fill="black", layer="3")
    with torch.no_grad():
        clean = lenet(x)[0]
        assert result.evidence["class"] == str(int(clean.argmax())) == "7"
        maps = lenet[:5](x)[0].sum((1, 2))
        k = int(maps.argmax())
        for row, col in [(0, 0), (4, 6), (6, 6), (8, 5), (12, 12)]:
            hidden = x.clone()
            hidden[..., 2 * row : 2 * row + 4, 2 * col : 2 * col + 4] = 0
            out = lenet(hidden)[0]
            assert result.panels["probability"].values[row, col] == pytest.approx(
                float(out.softmax(0)[7]), rel=1e-4
            )
            assert result.panels["most_probable"].values[row, col] == int(out.argmax())
            activity = float(lenet[:5](hidden)[0, k].sum())
            assert result.panels["activity"].values[row, col] == pytest.approx(activity, rel=1e-4)
    assert result.values[digit[0, 0] > 200].mean() > 3 * np.abs(result.values[digit[0, 0] == 0]).mean()


def test_networks_that_mix_the_pictures_of_a_batch_are_refused() -> None:
    norm = torch.nn.BatchNorm2d(4, track_running_stats=False)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), norm, torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2)
    )
    model = VisionModel(net, Preprocess(), name="mixes")
    with pytest.raises(MethodRefusedError, match="other pictures of the batch"):
        model.explain(torch.rand(3, 8, 8), "occlusion", 1, window=4, stride=2)


def test_another_picture_can_fill_the_windows() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)).double()
    model = VisionModel(net, Preprocess(), name="linear")
    x, other = torch.rand(1, 3, 8, 8, dtype=torch.float64), torch.rand(1, 3, 8, 8, dtype=torch.float64)
    got = model.explain(x, "occlusion", 1, window=8, stride=8, fill=other, panels=False)
    with torch.no_grad():
        drop = float((model(x) - model(other))[0, 1])
    np.testing.assert_allclose(got.values, drop, rtol=1e-9)
    with pytest.raises(UsageError, match="3x7x8"):
        model.explain(x, "occlusion", 1, fill=torch.rand(3, 7, 8))


def test_a_window_that_changes_nothing_is_no_drop_in_bfloat16_either() -> None:
    torch.manual_seed(3)
    model = VisionModel(Small().eval(), Preprocess(mean=MEAN, std=STD), CLASSES, name="small")
    x = torch.rand(1, 3, H, W)
    own = (x[0].permute(1, 2, 0) * 255).round().byte().numpy()
    picture = torch.from_numpy(own).permute(2, 0, 1) / 255
    for precision, most in (("exact", 1e-6), ("fast", 1e-6)):
        found = model.explain(
            picture, "occlusion", target=1, window=4, stride=2, fill=own, precision=precision
        )
        assert np.abs(found.values).max() <= most * abs(found.evidence["score"])


@pytest.mark.parametrize(("level", "warned"), [(0.0, False), (300.0, True)])
def test_bfloat16_that_is_too_coarse_is_warned_of(level: float, warned: bool) -> None:
    """Scores that are small differences of large numbers."""

    class Difference(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.fc = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 2)
            torch.nn.init.constant_(self.fc.bias, level)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.conv(x).relu().mean((2, 3))).float() - level

    model = VisionModel(Difference().eval(), Preprocess(), name="difference")
    found = model.explain(torch.rand(3, 16, 16), "occlusion", 1, window=4, stride=4, precision="fast")
    assert any(n.startswith("warning: bfloat16 is too coarse") for n in found.notes) == warned
    assert any(n.startswith("computed in bfloat16") for n in found.notes) != warned
