"""Cuts a network of compress_networks.py by torch-pruning's group norms and exports it; a part of compress.py.

    PYTHON benchmarks/compress_torch_pruning.py --network projected --weights projected.safetensors --macs 0.5
        --out pruned.pt2

PYTHON has torch, torch-pruning and safetensors. The uniform ratio is the one whose multiply-adds come nearest to
`--macs` (a share of what there is) from above, widths in multiples of 8, as edgeport's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import compress_networks
import torch
import torch_pruning
from safetensors.torch import load_file
from torch import nn

STEPS = 40  # ratios tried, between 0 and 1


def pruned(name: str, weights: Path, ratio: float) -> tuple[nn.Module, float]:
    """Return the network cut by a ratio, and the share of its multiply-adds that is left."""
    network: nn.Module = getattr(compress_networks, name)()
    network.load_state_dict(load_file(weights))
    example = torch.zeros(1, 3, 32, 32)
    before, _ = torch_pruning.utils.count_ops_and_params(network, example)
    pruner = torch_pruning.pruner.GroupNormPruner(
        network,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        round_to=8,
        ignored_layers=[network.linear],
    )
    pruner.step()
    after, _ = torch_pruning.utils.count_ops_and_params(network, example)
    return network.eval(), after / before


def main() -> None:
    """Write the pruned network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=("projected", "mobile"), required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--macs", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    tried = [pruned(arguments.network, arguments.weights, step / STEPS) for step in range(1, STEPS)]
    network, share = min((found for found in tried if found[1] >= arguments.macs - 0.005), key=lambda found: found[1])
    sys.stderr.write(f"torch-pruning: {share:.3f} of the multiply-adds\n")
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: batch},))
    torch.export.save(program, arguments.out)


if __name__ == "__main__":
    main()
