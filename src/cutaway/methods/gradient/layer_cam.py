"""LayerCAM: every position weighted by its own positive gradient."""

from torch import Tensor

from cutaway.core.method import IMAGE, LAYER, TARGET, LayerName, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.result import Attribution
from cutaway.core.target import Target

from .weighted import head, silent


@method(
    title="LayerCAM",
    chapter="gradient",
    needs={IMAGE, TARGET, LAYER},
    gives=Attribution,
    paper="Jiang et al. 2021, IEEE TIP 30, eq. 5 to 7",
    tags=Tags(family="sensitivity", level="mid"),
    caveat="Usable at early layers for finer maps, which then show edges of many objects as well as the one asked about.",
    laws={"class sensitive", "weights sensitive"},
    single_pass=True,
)
def layer_cam(model: VisionModel, x: Tensor, target: Target, *, layer: LayerName = None) -> Raw:
    """Where activation and positive gradient meet: L = ReLU(sum_k ReLU(dS/dA_k) * A_k), (N, h, w)."""
    h = head(model, x, target, layer)
    heat = (h.gradient.clamp(min=0) * h.activation).sum(1).clamp(min=0)  # Jiang 2021, eq. 6 and 7
    notes = h.notes + silent(heat, h.layer)
    return Raw(heat, signed=False, unit="evidence", layer=h.layer, evidence={"score": h.value}, notes=notes)
