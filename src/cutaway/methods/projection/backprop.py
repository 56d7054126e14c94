"""The plain gradient as a picture, the yardstick for deconvnet and guided backprop."""

from torch import Tensor

from cutaway.core.method import IMAGE, TARGET, Raw, Tags, method
from cutaway.core.model import VisionModel
from cutaway.core.progress import Progress, Steps
from cutaway.core.result import Attribution
from cutaway.core.target import Target

from .reduce import Reduce, reduced
from .rules import Keep, Start, project
from .walk import Layers, Maps, Walk, walk


@method(
    title="Backpropagation",
    chapter="projection",
    needs={IMAGE, TARGET},
    gives=Attribution,
    paper="Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034, sec. 4",
    tags=Tags(family="sensitivity", level="high"),
    caveat="The plain gradient: it shows what would change the score, and is noisy for deep networks.",
    laws={"class sensitive", "weights sensitive"},
    single_pass=True,
)
def backprop(
    model: VisionModel,
    x: Tensor,
    target: Target,
    *,
    reduce: Reduce = "rgb",
    start: Start = "gradient",
    keep: Keep = "auto",
    layers: Layers = None,
    maps: Maps = 8,
) -> Steps[Raw]:
    """The signed gradient of the target in pixel space, (N, 3, H, W), as a colour picture.

    The same figure as deconvnet and guided backprop with the ReLU's own rule, R where h>0.
    With `layers` it walks through the strongest maps of those layers (see `walk`).
    Raises `MethodRefusedError` when the target cannot be differentiated.
    """
    yield Progress(0, 1, note="Backpropagation")
    unit = "d target / d pixel"
    if layers is not None:
        asked = Walk(layers, maps, start, keep, "d unit / d pixel", plain={"reduce": (reduce, "rgb")})
        return (yield from walk(model, x, target, {}, asked, name="backprop"))
    done = project(model, x, target, {}, name="backprop", start=start, keep=keep)
    heat, signed = reduced(done.picture, reduce)
    return Raw(heat, signed=signed, unit=unit, evidence={"score": done.value}, notes=done.notes)
