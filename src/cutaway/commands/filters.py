"""`cutaway filters`: the weights of a network as pictures, without any picture given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.core.errors import UsageError, unknown

from .console import say
from .network import Network, networked
from .options import NETWORK, JsonOption, TableOption
from .outputs import check_outputs
from .summary import print_inspected

if TYPE_CHECKING:
    from cutaway.core.model import VisionModel
    from cutaway.core.result import Result


@networked()
def filters(
    *,
    named: Network,
    beside: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="With --method diagnosis: another network, whose first convolution is compared.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Side of the picture, where the preprocessing has none.", rich_help_panel=NETWORK
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="Any method that needs no picture. See `cutaway methods`.")
    ] = "filters",
    layer: Annotated[str | None, typer.Option(help="The layer; chosen and said when not given.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="An option of the method.")
    ] = None,
    output: TableOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw a layer's filters, or what else the weights alone say: planes, templates, effective kernels."""
    if output is not None:
        check_outputs(output, None, endings=(".png", ".html", ".npz", ".json"))

    from cutaway.core.method import IMAGE, LAYER, METHODS
    from cutaway.methods import get

    chosen = get(method)
    if beside is not None and method != "diagnosis":
        raise UsageError(f"--beside with --method {method}", "--method diagnosis", "--method diagnosis")
    if not set(chosen.needs) <= {LAYER}:
        alone = ", ".join(n for n, m in METHODS.items() if set(m.needs) <= {LAYER})
        hint = f"cutaway explain IMG --method {method}" if IMAGE in chosen.needs else ""
        raise UsageError(f"{method} needs more than the network", alone, hint)
    options: dict[str, Any] = {} if layer is None else {"layer": layer}
    for setting in settings or []:
        name, equals, value = setting.removeprefix(f"{method}.").partition("=")
        if not equals:
            raise UsageError(f"--set {setting}", "option=value", "--set space=pixels")
        if name not in chosen.parameters:
            raise unknown(f"option of {method}", name, chosen.parameters)
        options[name] = value
    chosen.options(options)
    network = named.load()
    _sized(network, size)
    result = network.inspect(method, **options)
    more = {} if beside is None else _beside(network, result, beside, size)
    print_inspected(result, as_json=as_json, more=more)
    if output is not None:
        say(f"wrote {result.save(output)}")


def _sized(network: VisionModel, size: int | None) -> None:
    """Have the layers traced at this size."""
    if size is not None:
        import torch

        network.pixels(torch.zeros(1, network.preprocess.pixel_channels, size, size))


def _beside(network: VisionModel, found: Result, spec: str, size: int | None) -> dict[str, Any]:
    """The bank of filters that was diagnosed and the first convolution of another network, side by side."""
    from cutaway.methods.weights.common import convolution, convolutions, exact
    from cutaway.methods.weights.spectra import compare_banks
    from cutaway.zoo import load

    other = load(spec)
    _sized(other, size)
    both = ((network, str(found.layer)), (other, convolutions(other)[0]))
    modules = [convolution(model, layer) for model, layer in both]
    banks = [(exact(m.weight), (int(m.stride[0]), int(m.stride[1]))) for m in modules]
    names = [f"{model.name} {layer}" for model, layer in both]
    return {"beside": {"names": names, **compare_banks(*banks[0], *banks[1])}}
