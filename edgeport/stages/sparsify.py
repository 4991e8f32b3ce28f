"""Sparsify: sets weights to zero and keeps every shape, so that the file compresses better."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgeport.errors import StageError

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule

    from edgeport.pruning.grains import Sparsity
    from edgeport.stages.context import Context
    from edgeport.types import Model


@dataclass(frozen=True, kw_only=True)
class Sparsify:
    """Set the least important weights of every convolution and linear layer to zero.

    Attributes:
        sparsity: which units and how many, one after another.
    """

    name: ClassVar[str] = "sparsify"

    sparsity: tuple[Sparsity, ...]

    def __call__(self, model: Model, context: Context) -> tuple[Model, dict[str, object]]:
        """Return the network with zeros in it, and what became zero.

        Batch-norm statistics are measured again on training samples, or else calibration samples, when there are any.

        Raises:
            StageError: nothing can become zero; the message says why.
        """
        import torch

        from edgeport.pruning.macs import layer_macs
        from edgeport.pruning.masks import find_masks
        from edgeport.stages.prune_repair import recalibrated

        module = copy.deepcopy(model.module)
        touched: dict[str, torch.Tensor] = {}
        left_whole: list[str] = []
        for sparsity in self.sparsity:
            found = find_masks(module, sparsity)
            left_whole += found.left_whole
            with torch.no_grad():
                for name, kept in found.kept.items():
                    touched[name] = module.get_parameter(name).mul_(kept)
        if not touched or all(bool((weight != 0).all()) for weight in touched.values()):
            reasons = "; ".join(left_whole[:3]) or "no layer has so many weights that one would go"
            raise StageError(f"sparsify: no weight of this network becomes zero: {reasons}")
        module, recalibration = recalibrated(module, model, context)
        macs = layer_macs(module, model.example_inputs)
        shares = {name: _nonzero(weight) for name, weight in _weights(module, macs).items()}
        return model.with_(module=module, calibration=None), {
            "grains": [str(sparsity) for sparsity in self.sparsity],
            "weights": sum(weight.numel() for weight in _weights(module, macs).values()),
            "weights_nonzero": sum(int((weight != 0).sum()) for weight in _weights(module, macs).values()),
            "macs": sum(macs.values()),
            "macs_nonzero": round(sum(macs[name] * share for name, share in shares.items())),
            "nonzero_share": {name.removesuffix(".weight"): round(share, 4) for name, share in shares.items()},
            "left_whole": left_whole,
            "recalibration": recalibration,
        }


def _weights(module: GraphModule, macs: dict[str, int]) -> dict[str, torch.Tensor]:
    return {name: module.get_parameter(name).detach() for name in macs}


def _nonzero(weight: torch.Tensor) -> float:
    return float((weight != 0).double().mean())
