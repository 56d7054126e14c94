"""The options that several commands share, each declared once: what it is called, takes and says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NETWORK, QUESTION, OUTPUT = "The network", "The question", "What comes out"

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="SPEC",
        help="cutaway:scenes, resnet50 (torchvision), timm:NAME, hf:NAME, keras:FILE.keras, path/net.py:build.",
        rich_help_panel=NETWORK,
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="A .safetensors file, a state dict of tensors, or 'random' for an untrained network.",
        rich_help_panel=NETWORK,
    ),
]
ClassesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Class names: a JSON list, or one name a line.", rich_help_panel=NETWORK
    ),
]
PreprocessOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.json",
        help="How a picture becomes the network's input: resize, crop, mean, std, channels ...",
        rich_help_panel=NETWORK,
    ),
]
DeviceOption = Annotated[
    str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=NETWORK)
]
MethodsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="A,B",
        help="Joined by commas; 'all' for every one that needs only a picture. See `cutaway methods`.",
        rich_help_panel=QUESTION,
    ),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="METHOD.OPTION=VALUE", help="An option of a method.", rich_help_panel=QUESTION
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(
        min=0,
        help="Of methods that draw random numbers; equal seeds give equal bits.",
        rich_help_panel=QUESTION,
    ),
]
FigureOption = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="A report (.html), a figure (.png), or a folder of figures.",
        rich_help_panel=OUTPUT,
    ),
]
TableOption = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="OUT", help=".html, .png, .npz, .json.", rich_help_panel=OUTPUT),
]
ArraysOption = Annotated[
    Path | None,
    typer.Option(
        metavar="OUT.npz",
        help="Raw float32 arrays, named <number>/<picture or target>/<method>.",
        rich_help_panel=OUTPUT,
    ),
]
MadeByOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method", metavar="A,B", help="Joined by commas. See `cutaway methods`.", rich_help_panel=QUESTION
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Pictures, for methods that learn from many; class labels by folder or file name.",
        rich_help_panel=QUESTION,
    ),
]
PreviewOption = Annotated[
    Path | None,
    typer.Option(
        metavar="NOW.png",
        help="Written over about once a second while the work goes on.",
        rich_help_panel=OUTPUT,
    ),
]
MadeOption = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="A figure (.png), a report (.html), frames (.gif), or a folder of figures.",
        rich_help_panel=OUTPUT,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=OUTPUT)
]
