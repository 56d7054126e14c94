"""Small folders as `save_pretrained` writes them: a ResNet, a ViT, a ConvNeXt, each with its preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

KINDS = ("resnet", "vit", "convnext")


def network(kind: str = "resnet", classes: int = 4) -> tuple[Any, Any]:
    """(network, image processor) of one kind, with weights drawn from a seed."""
    import transformers as t

    names = {"id2label": {i: f"class {i}" for i in range(classes)}}
    names |= {"label2id": {f"class {i}": i for i in range(classes)}}
    if kind == "resnet":
        config = t.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **names
        )
        build = t.ResNetForImageClassification
        processor = t.ConvNextImageProcessor(size={"shortest_edge": 56}, crop_pct=0.875, resample=3)
    elif kind == "vit":
        config = t.ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=32,
            patch_size=8, **names
        )  # fmt: skip
        build = t.ViTForImageClassification
        processor = t.ViTImageProcessor(size={"height": 32, "width": 32})
    else:
        config = t.ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], **names)
        build = t.ConvNextForImageClassification
        processor = t.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875, resample=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        built = build(config).eval()
    for norm in (m for m in built.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    return built, processor


def hf_folder(folder: Path, kind: str = "resnet", **options: Any) -> Path:
    """A folder with `network(kind)` and its preprocessing."""
    built, processor = network(kind, **options)
    path = folder / kind
    built.save_pretrained(path)
    processor.save_pretrained(path)
    return path
