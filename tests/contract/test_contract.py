"""The laws every registered method keeps, on every small architecture."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cutaway
from cutaway.core.errors import CutawayError, MethodRefusedError, UnknownNameError, UsageError
from cutaway.core.method import IMAGE, TARGET, Need
from cutaway.core.progress import finish
from cutaway.core.run import explain
from cutaway.methods import METHODS

from .nets import ARCHITECTURES, SPELLINGS, Shown, build, generator

CLASSES = ("ant", "bee", "cat", "dog", "elk")
RULES = ("deconvnet", "guided_backprop", "guided_grad_cam", "rect_grad")
# every exception to "each method runs on each architecture", with its reason
REFUSED: dict[tuple[str, str], str] = {
    **{(m, "smooth"): "rules for ReLU; GELU and SiLU have none" for m in RULES},
    ("lrp", "smooth"): "no rule shares relevance through GELU and SiLU",
    ("activation_factors", "smooth"): "NMF takes no negative numbers; GELU and SiLU give some",
    ("cam", "chain"): "the head is Flatten and two linear layers",
    ("cam", "gated"): "squeeze-excite stands between the last map and the linear layer",
    **{("linear_templates", a): "no linear layer reads the picture itself" for a in ARCHITECTURES},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "occlusion": {"window": 4, "stride": 3},
    "shapley": {"grid": 3},
    "lime": {"players": "grid", "grid": 3, "samples": 64},
    "rise": {"samples": 24, "cells": 4},
    "feature_visualization": {"steps": 3},
    "iterative_fooling": {"steps": 10},  # a long climb in float32 leaves its path at the last bit of a sum
    "class_visualization": {"steps": 4},
    "regularized_visualization": {"steps": 5},
    "latent_synthesis": {"steps": 4},
    "universal_perturbation": {"epochs": 2, "batch": 2},
    "attack_strength": {"levels": "16,160", "steps": 2},
    "adversarial_patch": {"steps": 2, "samples": 2, "trials": 2, "share": 0.2, "row": 0.5, "column": 0.5},
    "multifaceted_visualization": {"steps": 1},
    "deep_dream": {"octaves": 1, "steps": 3},
    "feature_inversion": {"layers": "stages", "steps": 3},
}
# methods that without a target explain something else than the predicted class, with what they do
UNASKED = {"deep_dream": "dreams of a whole layer"}
MAY_BE_ZERO = {"attack_strength": "that nothing is fooled is an answer"}
# what a method needs beside a picture and a target
GIVEN: dict[str, dict[Need, Callable[[], Any]]] = {
    "latent_synthesis": {Need.GENERATOR: generator},
    "universal_perturbation": {Need.DATA: Shown},
    "attack_strength": {Need.DATA: Shown},
    "multifaceted_visualization": {Need.DATA: Shown},
}
PAIRS = [(m, a) for m in sorted(METHODS) for a in ARCHITECTURES]
ALLOWED = [p for p in PAIRS if p not in REFUSED]
OF_PICTURES = [p for p in ALLOWED if IMAGE in METHODS[p[0]].needs]
RUNNING = sorted({m for m, _ in OF_PICTURES})


def model_of(net: nn.Module) -> cutaway.VisionModel:
    prep = cutaway.Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    return cutaway.VisionModel(net, prep, CLASSES, name="small")


def pictures(n: int) -> Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(n), dtype=torch.float64)


def run(model: cutaway.VisionModel, name: str, x: Tensor, target: Any = 2, seed: int = 0) -> list[Any]:
    given = {need: make() for need, make in GIVEN.get(name, {}).items()}
    return list(finish(explain(model, METHODS[name], x, target, OPTIONS.get(name), given=given, seed=seed)))


@pytest.mark.parametrize(("method", "architecture"), sorted(REFUSED))
def test_every_exception_is_a_clear_refusal(method: str, architecture: str) -> None:
    with pytest.raises(MethodRefusedError) as caught:
        run(model_of(build(architecture)), method, pictures(1))
    assert caught.value.accepted
    assert caught.value.hint


@pytest.mark.parametrize(("method", "architecture"), ALLOWED)
def test_same_bits_twice(method: str, architecture: str) -> None:
    model, x = model_of(build(architecture)), pictures(2)
    for one, two in zip(run(model, method, x), run(model, method, x), strict=True):
        for key, array in one.arrays().items():
            np.testing.assert_array_equal(array, two.arrays()[key])


@pytest.mark.parametrize(("method", "architecture"), OF_PICTURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_batch_of_four_equals_four_of_one_in_any_order(
    method: str, architecture: str, dtype: torch.dtype
) -> None:
    model, x = model_of(build(architecture).to(dtype)), pictures(4).to(dtype)
    order = torch.tensor([2, 0, 3, 1])
    target = cutaway.logit(2) - 0.5 * cutaway.logit(0)
    together = run(model, method, x[order], target)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for got, i in zip(together, order, strict=True):
        want = run(model, method, x[i : i + 1], target)[0].values
        np.testing.assert_allclose(got.values, want, rtol=0, atol=tolerance * max(np.abs(want).max(), 1e-30))


def state(net: nn.Module) -> dict[str, Any]:
    return {
        "modes": [m.training for m in net.modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in net.modules()
        ],
        "flags": [p.requires_grad for p in net.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "values": copy.deepcopy(net.state_dict()),
        "random": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),
    }


def same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before["modes"] == after["modes"]
    assert before["hooks"] == after["hooks"]
    assert before["flags"] == after["flags"]
    assert torch.equal(before["random"], after["random"])
    assert (before["numpy"] == after["numpy"]).all()
    for a, b in zip(before["grads"], after["grads"], strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)
    for key, value in before["values"].items():
        assert torch.equal(value, after["values"][key])


@pytest.mark.parametrize(("method", "architecture"), PAIRS)
def test_nothing_is_touched_by_success_or_refusal(method: str, architecture: str) -> None:
    net = build(architecture)
    net.train()
    next(iter(net.children())).eval()
    parameters = list(net.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    x = pictures(2)
    kept, before = x.clone(), state(net)
    try:
        run(model_of(net), method, x)
    except MethodRefusedError:
        assert (method, architecture) in REFUSED
    same(before, state(net))
    assert torch.equal(x, kept)
    assert not x.requires_grad
    assert x.grad is None


class Fails(nn.Module):
    """Raises inside the forward pass, once the layer table was made; at its start for methods that end it early."""

    def __init__(self, early: bool) -> None:
        super().__init__()
        self.body, self.armed, self.early = build("residual"), False, early

    def forward(self, x: Tensor) -> Tensor:
        if self.armed and self.early:
            raise KeyError("the user's own mistake")
        h: Tensor = self.body(x)
        if self.armed:
            raise KeyError("the user's own mistake")
        return h


@pytest.mark.parametrize("method", RUNNING)
def test_nothing_is_touched_by_a_forward_that_raises_or_a_bad_option(method: str) -> None:
    net = Fails(early=TARGET not in METHODS[method].needs).train()
    model = model_of(net)
    model.pixels(pictures(1))
    _ = model.layers.suggest()
    net.armed = True
    before = state(net)
    with pytest.raises(KeyError, match="own mistake"):
        run(model, method, pictures(1))
    with pytest.raises(UnknownNameError):
        model.explain(pictures(1), method, 2, no_such_option=1)
    same(before, state(net))
    y = torch.relu(torch.ones(1, requires_grad=True))
    assert y.grad_fn.name().startswith("Relu")  # type: ignore[union-attr]  # no mode is left active


@pytest.mark.parametrize(("method", "architecture"), [p for p in ALLOWED if p[1] != "smooth"])
def test_all_spellings_give_one_answer(method: str, architecture: str) -> None:
    x = pictures(1)
    want = run(model_of(build(architecture)), method, x)[0].values
    for spelling in SPELLINGS[1:]:
        net = build(architecture, spelling)
        got = run(model_of(net), method, x)[0].values
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * np.abs(want).max(), err_msg=spelling)


@pytest.mark.parametrize("method", RUNNING)
def test_between_two_steps_everything_is_the_callers(method: str) -> None:
    net = build("residual").train()
    model = model_of(net)
    _ = model.layers.suggest()
    before, grad = state(net), torch.is_grad_enabled()
    given = {need: make() for need, make in GIVEN.get(method, {}).items()}
    steps = explain(model, METHODS[method], pictures(2), 2, OPTIONS.get(method), given=given)
    count = 0
    for _ in steps:
        count += 1
        same(before, state(net))
        assert torch.is_grad_enabled() == grad
        assert torch.relu(torch.ones(1, requires_grad=True)).grad_fn.name().startswith("Relu")  # type: ignore[union-attr]
    assert count >= 1


@pytest.mark.parametrize(
    "method",
    [m for m in sorted(METHODS) if {IMAGE, TARGET} <= set(METHODS[m].needs) and m not in UNASKED],
)
def test_without_a_target_the_predicted_class_of_each_picture_is_explained(method: str) -> None:
    model = model_of(build("residual"))
    x = pictures(2)
    with torch.no_grad():
        wanted = model(x).argmax(1)
    goal = cutaway.predicted()
    for i in (0, 1, 0):  # one predicted() asked about several pictures decides anew for each
        got = run(model, method, x[i : i + 1], goal)[0]
        np.testing.assert_allclose(
            got.values, run(model, method, x[i : i + 1], int(wanted[i]))[0].values, rtol=1e-12
        )
        default = run(model, method, x[i : i + 1], None)[0]
        np.testing.assert_array_equal(default.values, got.values)
        assert any("predicted class" in n for n in default.notes)


@pytest.mark.parametrize("method", [m for m in sorted(METHODS) if (m, "residual") not in REFUSED])
def test_surroundings_do_not_leak_in(method: str) -> None:
    model = model_of(build("residual").float())
    x = pictures(1).float()
    want = run(model, method, x)[0].values
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(run(model, method, x)[0].values, want)
    with torch.inference_mode():
        np.testing.assert_array_equal(run(model, method, x.clone())[0].values, want)


def test_the_layer_table_leaves_random_numbers_alone() -> None:
    model = model_of(build("residual"))
    before = torch.get_rng_state()
    assert len(model.layers) > 3
    assert torch.equal(before, torch.get_rng_state())


def outside(parameter: Any) -> list[Any]:
    bad: list[Any] = [object()]
    if parameter.choices:
        return [*bad, "no such choice", 3]
    if parameter.type == "bool":
        return [*bad, "perhaps", 7]
    if parameter.type in ("int", "float"):
        bad += ["many", float("nan"), True]
        if parameter.range is not None and parameter.range.low > -np.inf:
            bad.append(parameter.range.low - 1)
        if parameter.range is not None and parameter.range.high < np.inf:
            bad.append(parameter.range.high + 1)
        if parameter.type == "int":
            bad.append(1.5)
    return bad


@pytest.mark.parametrize(
    ("method", "option"), [(m, o) for m in sorted(METHODS) for o in METHODS[m].parameters]
)
def test_options_out_of_range_are_refused_by_name(method: str, option: str) -> None:
    parameter = METHODS[method].parameters[option]
    assert parameter.check(parameter.default) == parameter.default
    for value in outside(parameter):
        with pytest.raises(UsageError, match=option) as caught:
            METHODS[method].options({option: value})
        assert caught.value.accepted


@pytest.mark.parametrize(("method", "architecture"), ALLOWED)
def test_raw_values_keep_sign_and_unit(method: str, architecture: str) -> None:
    result = run(model_of(build(architecture)), method, pictures(1))[0]
    assert result.unit
    assert np.isfinite(result.values).all()
    assert np.abs(result.values).max() > 0 or method in MAY_BE_ZERO
    if not result.signed:
        assert result.values.min() >= 0
    if method in ("saliency", "backprop", "grad_cam", "layer_cam", "cam", "occlusion"):
        scaled = run(model_of(build(architecture)), method, pictures(1), 3 * cutaway.logit(2))[0]
        np.testing.assert_allclose(scaled.values, 3 * result.values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("method", "architecture"), ALLOWED)
def test_declared_laws_hold(method: str, architecture: str) -> None:
    spec, x = METHODS[method], pictures(1)
    model = model_of(build(architecture))
    one = run(model, method, x)[0]
    if "class sensitive" in spec.laws and TARGET in spec.needs:
        assert np.abs(one.values - run(model, method, x, 4)[0].values).max() > 1e-9
    if "weights sensitive" in spec.laws:
        other = run(model_of(build(architecture, seed=6)), method, x)[0].values
        assert np.abs(one.values - other).max() > 1e-9
    if "completeness" in spec.laws:
        places = one.values.size if "mean" in str(one.evidence.get("pooling")) else 1
        with torch.no_grad():
            score = model(x)[0, 2].item()
        apart = one.evidence["bias"] if "bias" in one.evidence else one.evidence["baseline score"]
        np.testing.assert_allclose(one.values.sum() / places + apart, score, rtol=1e-10)
    if "conservation" in spec.laws:
        assert abs(one.evidence["unaccounted"]) < 1e-9 * max(abs(one.evidence["start"]), 1)


@pytest.mark.parametrize("method", sorted({m for m, a in ALLOWED if a == "residual"}))
def test_results_survive_save_and_load(method: str, tmp_path: Any) -> None:
    result = run(model_of(build("residual")), method, pictures(1), "cat")[0]
    again = cutaway.load_result(result.save(tmp_path / "r.npz"))
    assert again.to_dict() == result.to_dict()
    for key, array in result.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[key])
    assert ("cat" in again.target) == (TARGET in METHODS[method].needs)
    assert again.provenance.fingerprint == model_of(build("residual")).fingerprint


def test_declarations_are_complete() -> None:
    for spec in METHODS.values():
        assert spec.summary.endswith((".", "|", "k."))
        assert spec.caveat.count(".") >= 1
        assert any(c.isdigit() for c in spec.paper)
        assert all(p.help for p in spec.parameters.values()), spec.name
        assert issubclass(spec.gives, cutaway.core.result.Result)
        assert not isinstance(spec, CutawayError)
