"""Integrated gradients cost: evaluations for a completeness residual of one per cent, beside Captum.

SqueezeNet and MobileNet-v2 with real weights, five real photographs each, black baseline, the predicted class. An
evaluation is one forward and backward pass of one picture. Cutaway runs with its defaults and stops by itself; all
its evaluations are counted, those at both ends of the line too. Captum (Gauss-Legendre, its default) cannot stop by
itself, so it is run with 4, 6, 8, 12, 16, 24, 32, 48 and 64 nodes: "first" is the smallest number whose residual is
within one per cent, perhaps by luck, which is what a person would need who knew it beforehand; "from then on" the
smallest from which every larger number tried is within, up to 64. Its two plain forward passes for the residual are
not counted. The reason for the difference: the gradient is piecewise constant along the line, so Gauss-Legendre has
no advantage to offer, and most of the bending lies in few places, which the local residual shows.

Per pixel, one per cent says little: `error` is the distance, root mean square over pixels (colours summed) as a
share of the size, to a sum over REFERENCE midpoints on the first photographs, for Cutaway and for Captum with as
many evaluations. `CUTAWAY_DATA` names the folder of photographs and weights, `REFERENCE` the midpoints
(0: none; 10,000 take an hour on two cores), `PICTURES` how many, `NETWORKS` which.
"""

import json
import os
import warnings
from pathlib import Path

import torch
from captum.attr import IntegratedGradients
from timing import report

import cutaway
from cutaway.core.model import VisionModel
from cutaway.zoo import load

DATA = Path(os.environ.get("CUTAWAY_DATA", Path(__file__).parents[2] / "shared" / "data"))
NODES = (4, 6, 8, 12, 16, 24, 32, 48, 64)
PICTURES = int(os.environ.get("PICTURES", "5"))
REFERENCE = int(os.environ.get("REFERENCE", "0"))
REFERENCES = 1
PREPROCESS = {
    "squeezenet1_1": {
        "resize": 256,
        "resize_mode": "warp",
        "crop": 227,
        "channels": "BGR",
        "range": 255,
        "mean": [104, 117, 123],
    },
    "mobilenet_v2": {"resize": 256, "crop": 224, "mean": [0.5], "std": [0.5], "padding": "tensorflow_same"},
}


def captum(model: VisionModel, x: torch.Tensor, target: int, nodes: int) -> torch.Tensor:
    """Captum's attributions in pixel space, from black."""
    with warnings.catch_warnings(), model.guard():
        warnings.simplefilter("ignore")
        peer = IntegratedGradients(model.__call__)
        found: torch.Tensor = peer.attribute(x, target=target, n_steps=nodes, internal_batch_size=4)
    return found.detach().double()


def midpoints(model: VisionModel, x: torch.Tensor, target: int, nodes: int) -> torch.Tensor:
    """The integral as a plain sum, from black."""
    total = torch.zeros_like(x, dtype=torch.float64)
    with model.guard():
        for part in ((torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes).split(4):
            u = (part.view(-1, 1, 1, 1).to(x) * x).requires_grad_()
            total += torch.autograd.grad(model(u)[:, target].sum(), u)[0].double().sum(0) / nodes
    return total * x


def error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Distance over pixels, colours summed, as a share of the size."""
    return float((found.sum(1) - truth.sum(1)).norm() / truth.sum(1).norm())


def one(model: VisionModel, path: Path, truth: bool) -> dict[str, object]:
    """Both sides on one photograph."""
    x = model.pixels(path)
    k = model.predict(path)[0].index
    mine = model.explain(path, "integrated_gradients", k, reduce="rgb")
    assert isinstance(mine, cutaway.Attribution)
    row: dict[str, object] = {
        "picture": path.name,
        "class": model.class_name(k),
        "cutaway": mine.evidence["evaluations"],
        "cutaway residual": mine.evidence["relative residual"],
    }
    rise = mine.evidence["score"] - mine.evidence["baseline score"]
    tried = {n: abs(float(captum(model, x, k, n).sum()) - rise) / abs(rise) for n in NODES}
    row["captum residuals"] = tried
    row["captum first"] = next((n for n in NODES if tried[n] <= 0.01), None)
    late = [i for i, n in enumerate(NODES) if tried[n] > 0.01]
    row["captum from then on"] = NODES[late[-1] + 1] if late and late[-1] + 1 < len(NODES) else None
    if truth and REFERENCE:
        reference = midpoints(model, x, k, REFERENCE)
        row["error"] = error(torch.from_numpy(mine.values)[None].double(), reference)
        row["captum error"] = error(captum(model, x, k, int(mine.evidence["evaluations"])), reference)
    return row


def main() -> None:
    if not DATA.is_dir():
        print(f"skipped: no photographs and weights in {DATA}; set CUTAWAY_DATA")
        return
    labels = json.loads((DATA / "nips17_images" / "labels.json").read_text())
    chosen = labels[:: len(labels) // PICTURES][:PICTURES]
    paths = [DATA / "nips17_images" / entry["file"] for entry in chosen]
    rows, data = [], {}
    for name in os.environ.get("NETWORKS", " ".join(PREPROCESS)).split():
        preprocess = PREPROCESS[name]
        weights = DATA / "weights" / f"{name}_imagenet_fp16.safetensors"
        model = load(name, weights=weights, preprocess=preprocess, device="cpu")
        data[name] = [one(model, path, i < REFERENCES) for i, path in enumerate(paths)]
        for row in data[name]:
            shares = [f"{row[key]:.2f}" if key in row else "" for key in ("error", "captum error")]
            counts = [str(row[key] or "> 64") for key in ("captum first", "captum from then on")]
            residual = f"{row['cutaway residual']:.2%}"
            rows.append([name, str(row["picture"])[:8], str(row["cutaway"]), residual, *counts, *shares])
    columns = ["network", "picture", "cutaway", "residual", "captum first", "captum from then on"]
    columns += ["error", "captum's at as many"]
    report("Integrated gradients: evaluations for a residual of one per cent", columns, rows, data)


if __name__ == "__main__":
    main()
