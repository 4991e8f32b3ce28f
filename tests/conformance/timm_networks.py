"""Networks of timm with random weights, for the pruning tests."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

LIST = Path(__file__).with_name("architectures.toml")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One entry of `architectures.toml`, which explains the fields."""

    name: str
    size: int
    least_share: float
    options: dict[str, Any] = field(default_factory=dict)
    small: bool = False

    def inputs(self, batch: int) -> tuple[torch.Tensor, ...]:
        """Return pictures of normal noise, always the same ones, (batch, 3, size, size)."""
        return (torch.randn(batch, 3, self.size, self.size, generator=torch.Generator().manual_seed(0)),)


def architectures() -> list[Architecture]:
    """Return the whole list."""
    return [Architecture(**entry) for entry in tomllib.loads(LIST.read_text()).get("architecture", [])]


def is_installed() -> bool:
    """Whether timm and torchvision, which it imports, are there."""
    return find_spec("timm") is not None and find_spec("torchvision") is not None


def create(architecture: Architecture) -> nn.Module:
    """Return the network with freshly drawn weights and ten classes."""
    _declare_detection_kernels()
    timm = import_module("timm")
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(
        architecture.name, pretrained=False, num_classes=10, **architecture.options
    ).eval()
    return network


def _declare_detection_kernels() -> None:
    """Declare the operators whose lack stops `import torchvision`: its wheels are linked to CUDA, our torch is not.

    Only detection networks run them.
    """
    origin = getattr(find_spec("torchvision"), "origin", None)
    libraries = list(Path(str(origin)).parent.glob("_C*"))
    try:
        for library in libraries:
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]  # torch's own lack
    except OSError:
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                torch.library.define(
                    f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )
