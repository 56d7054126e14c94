"""`cutaway filters`: the weights of a network as pictures, without any picture given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cutaway.core.errors import UsageError, unknown

from .console import say
from .explain import (
    NETWORK,
    OUTPUT,
    ClassesOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    PreprocessOption,
    WeightsOption,
)
from .outputs import check_outputs
from .summary import print_inspected


def filters(
    model: ModelOption,
    weights: WeightsOption = None,
    classes: ClassesOption = None,
    preprocess: PreprocessOption = None,
    device: DeviceOption = "auto",
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
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT", help=".png, .html, .npz, .json.", rich_help_panel=OUTPUT
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw a layer's filters, or what else the weights alone say: planes, templates, effective kernels."""
    if output is not None:
        check_outputs(output, None, endings=(".png", ".html", ".npz", ".json"))

    from cutaway.core.method import IMAGE, LAYER, METHODS
    from cutaway.methods import get
    from cutaway.zoo import load

    chosen = get(method)
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
    network = load(model, weights=weights, classes=classes, preprocess=preprocess, device=device)
    if size is not None:
        import torch

        network.pixels(torch.zeros(1, network.preprocess.pixel_channels, size, size))
    result = network.inspect(method, **options)
    print_inspected(result, as_json=as_json)
    if output is not None:
        say(f"wrote {result.save(output)}")
