"""Trace the network with `torch.export` on one real sample: the float teacher that everything later is judged by."""

from __future__ import annotations

import io
import traceback
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgeport.errors import ConfigError, StageError
from edgeport.graph.float_graph import check_finite
from edgeport.graph.functional import make_functional
from edgeport.graph.quiet import quiet
from edgeport.types import Model, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

    from edgeport.graph.network import Network


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Turn a network into a `Model`; it is the first stage, so it takes a `Network` instead of one."""

    name: ClassVar[str] = "trace"

    def __call__(self, network: Network, example_inputs: tuple[torch.Tensor, ...]) -> tuple[Model, dict[str, object]]:
        """Trace.

        Args:
            network: the user's network.
            example_inputs: one real sample, a batch of one.

        Raises:
            ConfigError: the network does not take these inputs.
            StageError: it cannot be traced (operator and source line named), or a weight is NaN or infinite.
        """
        import torch
        from torch.fx import GraphModule

        program, has_dynamic_batch = _export(network.module, example_inputs)
        inner = program.module(check_guards=False)
        module = GraphModule(inner, inner.graph)
        make_functional(module)
        placeholders = [node.name for node in module.graph.nodes if node.op == "placeholder"]
        with torch.no_grad():
            results = _tensors(module(*example_inputs), network.name)
        _check_batched(results)
        model = Model(
            module=module,
            example_inputs=example_inputs,
            inputs=_specs(placeholders, example_inputs),
            outputs=_specs([f"output_{index}" if index else "output" for index in range(len(results))], results),
            has_dynamic_batch=has_dynamic_batch,
        )
        check_finite(model)
        for spec, result in zip(model.outputs, results, strict=True):
            if result.is_floating_point() and not bool(torch.isfinite(result).all()):
                raise StageError(f"trace: {spec.name} of the float network is NaN or infinite on the first sample")
        parameters = sum(value.numel() for value in module.parameters())
        return model, {
            "inputs": [[spec.name, list(spec.shape), spec.dtype] for spec in model.inputs],
            "outputs": [[spec.name, list(spec.shape), spec.dtype] for spec in model.outputs],
            "parameters": parameters,
            "dynamic_batch": has_dynamic_batch,
        }


def _check_batched(results: tuple[torch.Tensor, ...]) -> None:
    for index, result in enumerate(results):
        if result.dim() == 0 or result.shape[0] != 1:
            raise StageError(
                f"trace: output {index} has the shape {tuple(result.shape)} for a batch of one; outputs need the batch"
                " dimension first, a row a sample"
            )


def _specs(names: list[str], values: tuple[torch.Tensor, ...]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, shape=tuple(value.shape[1:]), dtype=str(value.dtype).removeprefix("torch."))
        for name, value in zip(names, values, strict=True)
    )


def _tensors(result: object, name: str) -> tuple[torch.Tensor, ...]:
    import torch
    from torch.utils._pytree import tree_leaves

    leaves = tree_leaves(result)
    if not leaves or not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
        kinds = sorted({type(leaf).__name__ for leaf in leaves}) or ["nothing"]
        raise StageError(f"trace: network '{name}' returns {', '.join(kinds)}; outputs must be tensors")
    return tuple(leaves)


def _export(module: nn.Module | ExportedProgram, sample: tuple[torch.Tensor, ...]) -> tuple[ExportedProgram, bool]:
    """Return the traced program, with a dynamic batch dimension where the network allows."""
    import torch

    if isinstance(module, torch.export.ExportedProgram):
        inner = module.module(check_guards=False)
        _try_forward(inner, sample)
        return module, bool(module.range_constraints)
    _try_forward(module, sample)
    batch = torch.export.Dim("batch", min=1)
    pair = tuple(torch.cat([value, value]) for value in sample)
    # torch prints the graph so far to stderr before it raises
    with quiet(), redirect_stderr(io.StringIO()), torch.no_grad():
        try:
            return torch.export.export(module, pair, dynamic_shapes=_batch_dims(module, pair, batch)), True
        except Exception:  # noqa: BLE001  # vendor's edge: torch.export raises dozens of types; the static trace decides
            try:
                return torch.export.export(module, tuple(value.clone() for value in sample)), False
            except Exception as error:  # as above: told with operator and source line
                raise StageError(f"trace: {_cannot_trace(error)}") from error


def _batch_dims(module: nn.Module, inputs: tuple[torch.Tensor, ...], batch: object) -> Any:
    """Dynamic-shape form for `inputs`; a network with *args takes one nested tuple."""
    import inspect

    dims = tuple({0: batch} for _ in inputs)
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    return (dims,) if inspect.Parameter.VAR_POSITIONAL in kinds[:1] else dims


def _try_forward(module: nn.Module, sample: tuple[torch.Tensor, ...]) -> None:
    import torch

    try:
        with torch.no_grad():
            module(*(value.clone() for value in sample))  # its first operator may overwrite them
    except Exception as error:  # the user's own code may raise anything; it is told as it is
        shapes = ", ".join(str(tuple(value.shape)) for value in sample)
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        line = _user_line(error)
        raise ConfigError(f"the network does not take inputs of shape {shapes} (batch first): {first}{line}") from error


def _cannot_trace(error: Exception) -> str:
    where = _user_line(error)
    if type(error).__name__ == "GuardOnDataDependentSymNode":
        return f"the network decides by values of its tensors, which no trace can hold; use torch.where{where}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    caused = next((line for line in lines if line.startswith("Caused by:")), "")
    operator = f"; {caused[:160]}" if caused and "in __torch_function__" not in caused else ""
    return f"{first[:240].rstrip('.')}{operator}{where}"


def _user_line(error: BaseException) -> str:
    """Return ` (file.py, line N: source)` of the innermost line outside torch and edgeport."""
    here = Path(__file__).resolve().parents[1]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename
        and "<" not in frame.filename
        and not Path(frame.filename).resolve().is_relative_to(here / "stages")
    ]
    if not frames:
        return ""
    last = frames[-1]
    return f" ({Path(last.filename).name}, line {last.lineno}: {last.line})"
