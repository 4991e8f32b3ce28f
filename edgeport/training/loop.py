"""The training loop: a student learns from a teacher, each epoch decided by the seed, its number and the data alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgeport.errors import StageError
from edgeport.training import schedule
from edgeport.training.augment import augmented
from edgeport.training.checkpoint import State, load_state, save_state
from edgeport.training.modes import load_tensors, tensors_of, training_copy
from edgeport.training.teacher import Dtype, Ensemble, laid_out, outputs_of

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from edgeport.dataset import Batch, Dataset
    from edgeport.training.losses import Objective

SMALLEST_LOSS = 1e-3  # below, losses are all but zero, and a multiple of them means nothing
BLOW_UP = 3.0  # an epoch's mean loss over the lowest one before, from which on a training counts as diverged
MOMENTUM = 0.9  # Nesterov's, as in Sutskever et al. 2013, "On the importance of initialization and momentum", section 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Attributes:
        objective: what to minimise.
        epochs: passes over the data, >= 1.
        batch_size: samples a step, >= 2.
        learning_rate: peak of the schedule.
        warmup: share of the steps in which the learning rate rises, 0..1.
        weight_decay: L2 penalty of weights with two or more dimensions (not of biases and norms).
        clip_norm: longest gradient, L2 norm over all parameters.
        augment: flip and shift images.
        keep_zeros: weights of two or more dimensions that are zero in the student given stay zero.
        seed: of shuffle, augmentation and dropout.
        dtype: number format of convolutions and products; weights and losses stay float32.
    """

    objective: Objective
    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float
    weight_decay: float
    clip_norm: float
    augment: bool
    seed: int
    dtype: Dtype
    keep_zeros: bool = False


@dataclass(frozen=True, kw_only=True)
class Step:
    """Said after every step: `epoch` from 1, `step` of the whole training from 1, `loss` of this batch."""

    epoch: int
    step: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Where checkpoints lie, and whose they are.

    Attributes:
        path: the checkpoint file; None keeps nothing.
        fingerprint: identifies this training; another's checkpoint is not continued.
    """

    path: Path | None = None
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training gives.

    Attributes:
        state: after the last epoch.
        resumed_from_epoch: epochs that an earlier, killed run had done (0: none).
        was_discarded: a checkpoint was there, but belongs to another training.
        diverged: why the training ended before its last epoch, with `state` of the epoch before; empty: it did not.
    """

    state: State
    resumed_from_epoch: int = 0
    was_discarded: bool = False
    diverged: str = ""


class _DivergedError(Exception):
    """The training leads nowhere; says where that showed, and what to change."""


@dataclass(kw_only=True)
class _Run:
    """The moving parts of one training."""

    teacher: Ensemble
    student: GraphModule
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    total_steps: int
    masks: dict[str, torch.Tensor] = field(default_factory=dict)
    step: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def fit(
    networks: tuple[GraphModule, ...],
    data: Dataset,
    recipe: Recipe,
    *,
    keep: Keep | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Trained:
    """Train a student to give its teachers' outputs; the networks given stay as they are.

    The same arguments give the same bits, whether the run was killed and continued in between or not.

    Args:
        networks: the teachers, none where labels alone are learned, then the student; traced, of one interface.
        data: training samples.
        recipe: how to train.
        keep: where to leave a checkpoint after each epoch and to look for one first.
        on_step: called after every step; an exception of it ends the training, the last checkpoint stays.

    A training that diverges ends with the weights of the epoch before (`Trained.diverged`).

    Raises:
        StageError: a training sample is NaN or infinite, or the training diverged in its first epoch.
    """
    keep = keep or Keep()
    count = len(data)
    steps = schedule.steps_per_epoch(count, recipe.batch_size)
    example = [_tensor(array) for array in next(data.batches(1)).inputs]
    student = laid_out(training_copy(networks[-1]))
    run = _Run(
        teacher=Ensemble(networks[:-1], example, recipe.dtype),
        student=student,
        optimizer=_optimizer(student, recipe),
        recipe=recipe,
        total_steps=steps * recipe.epochs,
        masks=_zeros(student) if recipe.keep_zeros else {},
    )
    was_there = keep.path is not None and keep.path.is_file()
    found = load_state(keep.path, keep.fingerprint) if keep.path else None
    if found:
        _continue_from(run, found, steps)
    state, diverged = found, ""
    with torch.random.fork_rng(devices=[]):
        for epoch in range(found.epochs if found else 0, recipe.epochs):
            try:
                _train_epoch(run, data, epoch, on_step)
                after = _state(run)
            except _DivergedError as error:
                diverged = str(error)
                break
            state = after
            if keep.path:
                save_state(keep.path, state, keep.fingerprint)
    if state is None and diverged:
        raise StageError(f"distill: {diverged}")
    if state is None:
        raise ValueError(f"epochs is {recipe.epochs}; at least 1 is needed")
    return Trained(
        state=state,
        resumed_from_epoch=found.epochs if found else 0,
        was_discarded=was_there and found is None,
        diverged=diverged,
    )


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_epoch(run: _Run, data: Dataset, epoch: int, on_step: Callable[[Step], None]) -> None:
    """Go once through the data (epoch counts from 0)."""
    recipe = run.recipe
    started = time.perf_counter()
    torch.manual_seed(int(schedule.generator(recipe.seed, epoch, schedule.DROPOUT).integers(2**63)))
    chance = schedule.generator(recipe.seed, epoch, schedule.AUGMENT)
    order = schedule.epoch_order(len(data), recipe.batch_size, seed=recipe.seed, epoch=epoch)
    total, samples = 0.0, 0
    for batch in data.batches(recipe.batch_size, order=order.tolist()):
        rate = schedule.learning_rate(run.step, run.total_steps, peak=recipe.learning_rate, warmup=recipe.warmup)
        arrays = augmented(batch.inputs, chance) if recipe.augment else batch.inputs
        loss = _train_step(run, arrays, batch, rate)
        run.step += 1
        if not math.isfinite(loss):
            _check_samples(batch, order[samples : samples + len(arrays[0])].tolist(), f"step {run.step}")
            raise _DivergedError(
                f"the loss became {loss} in epoch {epoch + 1}, step {run.step} of {run.total_steps}; "
                f"lower the learning rate ({recipe.learning_rate:g}) or train in float32 (now {recipe.dtype})"
            )
        total += loss * len(arrays[0])
        samples += len(arrays[0])
        on_step(Step(epoch=epoch + 1, step=run.step, loss=loss))
    if run.losses and total / samples > BLOW_UP * max(min(run.losses), SMALLEST_LOSS):
        raise _DivergedError(
            f"the mean loss rose to {total / samples:.3g} in epoch {epoch + 1}, from {min(run.losses):.3g}; "
            f"lower the learning rate ({recipe.learning_rate:g})"
        )
    run.losses.append(total / samples)
    run.seconds.append(time.perf_counter() - started)


def _check_samples(batch: Batch, numbers: Sequence[int], where: str) -> None:
    """Raise StageError where a value of a batch is NaN or infinite; `numbers`: of its samples in the data."""
    for array in batch.inputs:
        finite = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        if not finite.all():
            number = numbers[int(np.argmin(finite))]
            raise StageError(f"distill: sample {number} of --train is NaN or infinite (met in {where}); leave it out")


def _train_step(run: _Run, arrays: tuple[np.ndarray, ...], batch: Batch, rate: float) -> float:
    """Take one step and return the loss before it."""
    inputs = [_tensor(array) for array in arrays]
    labels = None if batch.labels is None else torch.from_numpy(np.asarray(batch.labels, dtype=np.int64))
    loss = run.recipe.objective(outputs_of(run.student, inputs, run.recipe.dtype), run.teacher(inputs), labels)
    value = float(loss.detach())
    if not math.isfinite(value):
        return value
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
    for name, mask in run.masks.items():  # no gradient, no momentum and no decay of zero: they stay zero
        parameter = run.student.get_parameter(name)
        if parameter.grad is not None:
            parameter.grad.mul_(mask)
    torch.nn.utils.clip_grad_norm_(run.student.parameters(), run.recipe.clip_norm)
    run.optimizer.step()
    return value


def _zeros(student: GraphModule) -> dict[str, torch.Tensor]:
    """Return name -> 0 where a weight is zero and 1 elsewhere, of all weights that have zeros."""
    masks = {name: (value.detach() != 0).to(value) for name, value in student.named_parameters() if value.dim() > 1}
    return {name: mask for name, mask in masks.items() if not bool(mask.all())}


def _optimizer(student: GraphModule, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; biases and norms do not decay."""
    learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in learned if parameter.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [parameter for parameter in learned if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.SGD(filled, lr=recipe.learning_rate, momentum=MOMENTUM, nesterov=True)


def _state(run: _Run) -> State:
    """Return what the training knows now.

    Raises:
        _DivergedError: a weight is not finite.
    """
    tensors = {name: tensor.clone() for name, tensor in tensors_of(run.student).items()}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise _DivergedError(
                f"{name} is not finite after epoch {len(run.losses)}; "
                f"lower the learning rate ({run.recipe.learning_rate:g})"
            )
    momentum = {
        name: run.optimizer.state[parameter]["momentum_buffer"].clone()
        for name, parameter in run.student.named_parameters()
        if run.optimizer.state[parameter].get("momentum_buffer") is not None
    }
    return State(
        epochs=len(run.losses),
        tensors=tensors,
        momentum=momentum,
        losses=tuple(run.losses),
        seconds=tuple(run.seconds),
    )


def _continue_from(run: _Run, state: State, steps_per_epoch: int) -> None:
    """Put a checkpoint's values into the run, each in the memory layout of its parameter."""
    load_tensors(run.student, state.tensors)
    for name, parameter in run.student.named_parameters():
        if name in state.momentum:
            run.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(state.momentum[name])
    run.step = state.epochs * steps_per_epoch
    run.losses = list(state.losses)
    run.seconds = list(state.seconds)


def _tensor(array: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
