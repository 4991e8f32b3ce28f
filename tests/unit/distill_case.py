"""A small network, its teacher and its data, for the distillation tests; as a script, a run that can be killed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from edgeport.dataset import Dataset, open_dataset
from edgeport.stages.context import Context
from edgeport.stages.distill import Distill
from edgeport.training.modes import tensors_of, with_tensors
from edgeport.types import Model, TensorSpec

CLASSES = 4


class Net(nn.Module):
    """Convolution, norm, pooling, dropout, linear: (3, 16, 16) to 4 class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.1)
        self.linear = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        y = torch.relu(self.norm(self.conv(x)))
        scores: torch.Tensor = self.linear(self.dropout(y.mean((2, 3))))
        return scores


def traced(module: nn.Module, shapes: Sequence[tuple[int, ...]] = ((3, 16, 16),)) -> Model:
    """Trace with a dynamic batch, as the trace stage does."""
    inputs = tuple(torch.zeros(2, *shape) for shape in shapes)
    dims = tuple({0: torch.export.Dim("batch", min=1)} for _ in inputs)
    inner = torch.export.export(module.eval(), inputs, dynamic_shapes=dims).module(check_guards=False)
    graph = torch.fx.GraphModule(inner, inner.graph)
    results = graph(*inputs)
    outputs = results if isinstance(results, tuple) else (results,)
    return Model(
        module=graph,
        example_inputs=tuple(value[:1] for value in inputs),
        inputs=tuple(TensorSpec(name=f"x{i}", shape=shape, dtype="float32") for i, shape in enumerate(shapes)),
        outputs=tuple(
            TensorSpec(name=f"y{i}", shape=tuple(value.shape[1:]), dtype="float32") for i, value in enumerate(outputs)
        ),
    )


def perturbed(model: Model, amount: float = 0.5) -> Model:
    """Return the network with noise on its parameters; statistics and names stay."""
    generator = torch.Generator().manual_seed(1)
    parameters = dict(model.module.named_parameters())
    noisy = {
        name: value + amount * value.std(correction=0) * torch.randn(value.shape, generator=generator)
        if name in parameters
        else value
        for name, value in tensors_of(model.module).items()
    }
    return model.with_(module=with_tensors(model.module, noisy))


def teacher() -> Model:
    """Return a network whose scores differ from class to class."""
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.linear.weight.mul_(10)
    net.norm.running_var.fill_(0.3)  # type: ignore[union-attr]  # BatchNorm2d types it as Tensor | None
    return traced(net)


def data(folder: Path, *inputs: np.ndarray, labels: np.ndarray | None = None, classes: Sequence[str] = ()) -> Dataset:
    """Write an `.npz` with those samples and open it."""
    names = ["x"] if len(inputs) == 1 else [f"x{i}" for i in range(len(inputs))]
    arrays = dict(zip(names, inputs, strict=True))
    if labels is not None:
        arrays["y"] = labels
    if classes:
        arrays["classes"] = np.array(classes)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub takes allow_pickle for a key
    return open_dataset(str(folder / "data.npz"))


def images(folder: Path, count: int = 40) -> Dataset:
    """Write labelled random images."""
    chance = np.random.default_rng(0)
    pixels = chance.normal(size=(count, 3, 16, 16)).astype(np.float32)
    return data(folder, pixels, labels=chance.integers(0, CLASSES, count))


class Sleeper:
    """A progress that does what it is told at a certain step: sleep for ever, or stop the run as Ctrl-C does."""

    def __init__(self, *, step: int, interrupt: bool) -> None:
        self.step, self.interrupt, self.done = step, interrupt, 0

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Sleeper]:
        """Count the steps of a run."""
        yield self

    def advance(self, steps: int = 1) -> None:
        """Do it at the step."""
        self.done += steps
        if self.done == self.step and self.interrupt:
            raise KeyboardInterrupt
        if self.done == self.step:
            sys.stdout.write("asleep\n")
            sys.stdout.flush()
            time.sleep(600)

    def note(self, text: str) -> None:
        """Show nothing."""

    def log(self, message: str) -> None:
        """Show nothing."""


OPTIONS = Distill(epochs=4, batch_size=8)  # 40 samples: 5 steps an epoch


def main(folder: Path, step: int) -> None:
    """Run the case with checkpoints in `folder`, sleep at `step`; at the end write the weights to `folder`."""
    torch.set_num_threads(1)
    context = Context(
        teachers=(teacher(),), train=images(folder), scratch=folder, progress=Sleeper(step=step, interrupt=False)
    )
    model, metrics = OPTIONS(perturbed(teacher()), context)
    save_file({name: value.contiguous() for name, value in tensors_of(model.module).items()}, folder / "result")
    sys.stdout.write(f"resumed from {metrics['resumed_from_epoch']}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
