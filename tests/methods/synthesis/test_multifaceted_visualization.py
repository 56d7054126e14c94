"""Multifaceted visualization of planted units that answer to one of two templates."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import InputError, UsageError
from cutaway.core.image import Photo, read
from cutaway.core.method import DATA
from cutaway.core.progress import Enough, Progress, finish
from cutaway.core.result import Result
from cutaway.core.run import explain
from cutaway.methods import METHODS
from cutaway.methods.synthesis.facets import facets_of
from cutaway.methods.synthesis.multifaceted_visualization import Window
from cutaway.methods.synthesis.regularizers import tv_denoised

SIDE = 12


def templates() -> Tensor:
    """A disc in the middle and stripes, (2, 3, SIDE, SIDE), around zero, apart from each other."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, SIDE, dtype=torch.float64),) * 2, indexing="ij")
    disc = (x.square() + y.square() < 0.4).double() - 0.3
    stripes = torch.sign(torch.sin(9 * x))
    return torch.stack([torch.stack([disc, -disc, disc]), torch.stack([-stripes, stripes, 0 * stripes])])


class TwoFaced(nn.Module):
    """Class 1 answers to the larger of two templates; what tells them apart is also seen one layer before."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 2, SIDE, bias=False).double()
        self.see.weight.data = templates() / templates().flatten(1).norm(dim=1).view(2, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.see(x - 0.5).flatten(1)
        return torch.stack([-seen.amax(1), seen.amax(1)], 1)


class Shown:
    """So many pictures of each template with noise, their classes beside them."""

    def __init__(self, counts: tuple[int, int] = (14, 10), label: int = 1) -> None:
        random = torch.Generator().manual_seed(0)
        which = [0] * counts[0] + [1] * counts[1]
        noise = torch.randn((len(which), 3, SIDE, SIDE), generator=random, dtype=torch.float64)
        self.pixels = (0.5 + 0.12 * templates()[which] + 0.05 * noise).clamp(0, 1)
        self.names = [f"{i}.png" for i in range(len(which))]
        self.labels: Tensor | None = torch.full((len(which),), label)

    def __len__(self) -> int:
        return len(self.names)

    def photo(self, number: int) -> Photo:
        return read(self.pixels[number])

    def fingerprint(self, numbers: Any = None) -> str:
        return "shown"


def drawn(data: Any, target: Any = 1, watch: Any = None, **options: Any) -> Result:
    model = cutaway.VisionModel(TwoFaced(), cutaway.Preprocess(crop=SIDE), name="two-faced")
    work = explain(
        model,
        METHODS["multifaceted_visualization"],
        None,
        target,
        {"layer": "see"} | options,
        given={DATA: data},
    )
    return finish(work, watch)[0]


def alike(picture: np.ndarray, template: Tensor) -> float:
    return float(np.corrcoef(picture.ravel(), template.numpy().ravel())[0, 1])


def test_a_unit_of_two_templates_yields_both() -> None:
    found = drawn(Shown(), facets=2, steps=6, rate=0.02)
    facets = found.panels["facets"].values[:2]
    for picture, own, other in zip(facets, templates(), templates().flip(0), strict=True):
        assert alike(picture, own) > 0.7
        assert abs(alike(picture, other)) < 0.5
    assert found.evidence["pictures of each facet"] == [14, 10]
    np.testing.assert_array_equal(found.values, facets[0])
    assert found.evidence["value"] > found.evidence["value at the start"]


def test_below_each_facet_are_the_pictures_it_began_from() -> None:
    data = Shown()
    found = drawn(data, facets=2, steps=1)
    panel = found.panels["facets"]
    assert panel.columns == 2
    below = torch.from_numpy(panel.values[2:]).view(-1, 2, 3, SIDE, SIDE)
    of = [int((data.pixels - picture).abs().flatten(1).amax(1).argmin()) for picture in below[:, 0]]
    assert all(i < 14 for i in of)
    assert all(float((data.pixels - p).abs().flatten(1).amax(1).min()) < 1e-6 for p in below.flatten(0, 1))


def test_few_pictures_give_fewer_facets_and_say_so() -> None:
    found = drawn(Shown((5, 1)), steps=1)
    assert found.panels["facets"].columns == 1
    assert any("1 facet of 10, of 6 pictures" in note for note in found.notes)
    assert drawn(Shown((1, 0)), steps=1).evidence["pictures"] == 1


def test_only_pictures_of_the_class_are_read_and_without_labels_the_best() -> None:
    data = Shown()
    assert data.labels is not None
    data.labels[:14] = 0
    found = drawn(data, facets=1, steps=1)
    assert found.evidence["pictures"] == 10
    assert alike(found.values, templates()[1]) > 0.8
    data.labels = None
    assert any("raise" in note for note in drawn(data, facets=1, steps=1).notes)
    with pytest.raises(InputError, match="none of 24 pictures"):
        drawn(Shown(label=0))
    with pytest.raises(UsageError, match="several targets"):
        drawn(Shown(), cutaway.logit(torch.tensor([0, 1])))


def test_groups_of_codes_far_apart_are_found_whatever_their_order() -> None:
    random = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0] * 6, [9.0] * 6, [-9.0, 9.0] * 3])
    which = torch.randperm(45, generator=random) % 3
    codes = centres[which] + torch.randn(45, 6, generator=random)
    found = facets_of(codes, 3, 15, 50, 0)
    assert sorted(int(which[near[0]]) for near in found.nearest) == [0, 1, 2]
    assert all(len(set(which[near].tolist())) == 1 for near in found.nearest)
    assert found.sizes == (15, 15, 15)
    assert [len(near) for near in facets_of(codes, 3, 40, 50, 0).nearest] == [15, 15, 15]  # no one else's
    for all_own, near in zip(found.nearest, facets_of(codes, 3, 4, 50, 0).nearest, strict=True):
        apart = (found.map - found.map[all_own].mean(0)).norm(dim=1)
        assert near.tolist() == sorted(all_own.tolist(), key=lambda i: float(apart[i]))[:4]


@pytest.mark.parametrize(
    ("codes", "groups"),
    [
        (torch.ones(20, 6), 1),
        (torch.arange(2.0).repeat(10)[:, None].expand(20, 6), 2),
        (torch.arange(20.0)[:, None], 3),
    ],
)
def test_codes_that_are_equal_or_along_a_line_are_grouped_too(codes: Tensor, groups: int) -> None:
    assert len(facets_of(codes, 3, 4, 50, 0).nearest) == groups


def test_told_enough_once_it_draws_no_further() -> None:
    seen = 0

    def watch(step: Progress) -> None:
        nonlocal seen
        seen += 1
        if step.note.endswith("octave 2 of 5") and step.done > 0:
            raise Enough

    result = drawn(Shown(), watch=watch, steps=3)
    assert any("steps of octave 2 of 5" in note for note in result.notes)
    assert seen < 10


def test_octaves_grow_by_a_tenth_from_the_networks_own_size() -> None:
    sides: list[int] = []
    drawn(Shown(), steps=1, watch=lambda s: sides.append(s.preview.shape[-1]) if "octave" in s.note else None)
    assert sides == [round(SIDE * 1.1**k) for k in range(5)]


def test_what_is_held_does_not_grow_with_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the pictures that a facet begins from are read twice."""
    data, read_again = Shown(), []
    monkeypatch.setattr(data, "photo", lambda n, once=data.photo: (read_again.append(n), once(n))[1])
    drawn(data, facets=2, nearest=3, steps=1)
    assert len(read_again) == len(data) + 2 * 3


def test_total_variation_is_taken_out_as_the_closed_form_of_a_step_has_it() -> None:
    """Of a step between two flat halves of n rows each, `weight / n` goes from each side."""
    x = torch.cat([torch.zeros(1, 1, 3, 8), torch.ones(1, 1, 3, 8)], 2).double()
    got = tv_denoised(x, 0.3, rounds=4000)
    np.testing.assert_allclose(got[:, :, :3], torch.full((1, 1, 3, 8), 0.1), atol=1e-3)
    np.testing.assert_allclose(got[:, :, 3:], torch.full((1, 1, 3, 8), 0.9), atol=1e-3)


def test_the_window_stays_inside_and_around_the_centre() -> None:
    marked = torch.arange(9.0).view(1, 1, 1, 9).expand(1, 1, 9, 9)
    random = torch.Generator().manual_seed(0)
    lefts = [float(Window(spread=0.3, size=(5, 5)).draw(random)(marked)[0, 0, 0, 0]) for _ in range(400)]
    assert {0.0, 4.0} <= set(lefts) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    assert abs(np.mean(lefts) - 2) < 0.2
    assert {float(Window(spread=0, size=(5, 5)).draw(random)(marked)[0, 0, 0, 0]) for _ in range(9)} == {2.0}
