"""What a network takes where no data says it: given, declared beside the network, or inferred from its layers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeport.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import nn

    from edgeport.graph.network import Network

GIVE_INPUT = "give --input, such as --input 3x224x224 (a shape a network input, without the batch), or sample data"
DTYPES = ("float32", "int8", "int16", "int32", "int64", "uint8", "bool")
LARGE, SMALL = 224, 32  # sizes of pictures that networks are usually trained on: ImageNet's, CIFAR's
LARGE_STRIDE = 16  # a network that shrinks its pictures this much or more is one for large ones
OTHER_SIZES = (28, 64, 96, 128, 48, 112, 160, 192, 256, 299)  # tried in this order where neither usual size runs
COUNTED_SIZE = 4  # a map smaller than this has been pooled or is at the network's end; its stride tells nothing


@dataclass(frozen=True, kw_only=True)
class InputForm:
    """One network input, without batch.

    Attributes:
        shape: without the batch dimension.
        dtype: numpy's name of it.
        mean: of the values that stand in for it; 0 where nothing is known.
        std: standard deviation of them; 1 where nothing is known.
        below: integers stay below this; `bool` and integers start at zero.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    mean: float = 0.0
    std: float = 1.0
    below: int = 2

    def __str__(self) -> str:
        return "x".join(map(str, self.shape)) + ("" if self.dtype == "float32" else f":{self.dtype}")


def parse_inputs(text: str) -> tuple[InputForm, ...]:
    """Return the inputs that `--input` names: `3x32x32`, `3x32x32,16:int64`.

    Raises:
        ConfigError: another form.
    """
    found = []
    for part in text.split(","):
        sizes, _, dtype = part.strip().partition(":")
        numbers = sizes.split("x")
        if not all(number.isdecimal() and int(number) > 0 for number in numbers):
            raise ConfigError(
                f"--input '{text}': '{part.strip()}' is not a shape such as 3x32x32 (without the batch; several inputs"
                " with commas between them; 16:int64 for integers)"
            )
        if dtype not in ("", *DTYPES):
            raise ConfigError(f"--input '{text}': unknown number format '{dtype}'; known: {', '.join(DTYPES)}")
        found.append(InputForm(shape=tuple(map(int, numbers)), dtype=dtype or "float32"))
    return tuple(found)


def find_inputs(network: Network, given: str | None) -> tuple[tuple[InputForm, ...], str]:
    """Return what a network takes and, in words, how that is known.

    In this order: `--input`; example inputs or a shape that came with the network; its layers.

    Raises:
        ConfigError: nothing says it, or the network does not run on it.
    """
    if given is not None:
        return parse_inputs(given), "given by --input"
    if network.example_inputs is not None:
        return tuple(map(_form_of, network.example_inputs)), "of the example inputs that came with the network"
    if network.input_shapes is not None:
        return tuple(InputForm(shape=shape) for shape in network.input_shapes), "of the network's input_shape"
    form = _inferred(network)
    return (form,), f"INFERRED from the layers; give --input if it is wrong (--input {form} says the same)"


def _form_of(example: torch.Tensor) -> InputForm:
    """Return the form of an example with the batch first; stand-ins then have its mean and spread."""
    import torch

    dtype = str(example.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ConfigError(f"the network's example input is {dtype}; needs one of {', '.join(DTYPES)}")
    if example.dim() == 0 or not example.numel():
        raise ConfigError(f"the network's example input has the shape {tuple(example.shape)}; needs the batch first")
    shape = tuple(example.shape[1:])
    if not example.is_floating_point():
        return InputForm(shape=shape, dtype=dtype, below=max(2, int(example.max()) + 1))
    std, mean = torch.std_mean(example, correction=0)
    is_plain = bool(torch.isfinite(std)) and float(std) > 0  # zeros or ones only have the right shape
    return InputForm(shape=shape, mean=float(mean) if is_plain else 0.0, std=float(std) if is_plain else 1.0)


def _inferred(network: Network) -> InputForm:
    """Return the shape that fits the first layer and that the network runs on.

    A picture's size is 224 where the network shrinks it 16 times or more, else 32; where that does not run (a linear
    layer may want one size only), the first of `OTHER_SIZES` that does.
    """
    from torch import nn

    if not isinstance(network.module, nn.Module):
        raise ConfigError(f"'{network.name}' was saved without example inputs; {GIVE_INPUT}")
    inputs = _required_inputs(network.module)
    if inputs != 1:
        raise ConfigError(f"network '{network.name}' takes {inputs} inputs, which cannot be inferred; {GIVE_INPUT}")
    first = next((part for part in network.module.modules() if isinstance(part, (nn.Conv2d, nn.Linear))), None)
    for shape in _candidates(network.module, first):
        if _runs(network.module, shape):
            return InputForm(shape=shape)
    layer = (
        "it has no convolution or linear layer"
        if first is None
        else f"nothing that fits its first layer, {first}, runs"
    )
    raise ConfigError(f"the input of network '{network.name}' cannot be inferred: {layer}; {GIVE_INPUT}")


def _candidates(module: nn.Module, first: nn.Module | None) -> Iterator[tuple[int, ...]]:
    from torch import nn

    if isinstance(first, nn.Linear):
        yield (first.in_features,)
    if isinstance(first, nn.Conv2d):
        stride = _total_stride(module, first.in_channels)
        usual = (LARGE, SMALL) if stride >= LARGE_STRIDE else (SMALL, LARGE)
        for size in (*usual, *OTHER_SIZES):
            yield (first.in_channels, size, size)


def _total_stride(module: nn.Module, channels: int) -> float:
    """Return how many times smaller a large picture gets on its way, seen on the maps that convolutions make.

    Strides are measured, not multiplied: those of parallel branches do not add up. A network that stops on the way
    because the size is wrong has still shown the stride of what ran.
    """
    from torch import nn

    sizes: list[int] = [LARGE]

    def note(_: nn.Module, inputs: Sequence[torch.Tensor], output: torch.Tensor) -> None:
        for value in (*inputs, output):
            if value.dim() == 4 and min(value.shape[2:]) >= COUNTED_SIZE:
                sizes.append(min(value.shape[2:]))

    hooks = [part.register_forward_hook(note) for part in module.modules() if isinstance(part, nn.Conv2d)]
    try:
        _runs(module, (channels, LARGE, LARGE))
    finally:
        for hook in hooks:
            hook.remove()
    return LARGE / min(sizes)


def _runs(module: nn.Module, shape: tuple[int, ...]) -> bool:
    import torch

    try:
        with torch.no_grad():
            module(torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)))
    except Exception:  # noqa: BLE001  # the user's own code raises whatever it likes on a wrong shape
        return False
    return True


def _required_inputs(module: nn.Module) -> int:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    wanted = [part for part in parameters if part.kind in kinds and part.default is inspect.Parameter.empty]
    return max(1, len(wanted))
