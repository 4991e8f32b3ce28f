"""edgeport: one command from a PyTorch network to validated files for phones, boards and PCs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from edgeport.report.report import Report

__version__ = "0.1.0"
__all__ = ["__version__", "build", "load_pruned"]


def build(  # noqa: PLR0913  # one parameter a flag of `edgeport build`, with the same names
    model: str | None = None,
    *,
    target: str,
    weights: str | None = None,
    calibrate: str | None = None,
    evaluate: str | None = None,
    train: str | None = None,
    tune: str | None = None,
    prune: float | str | None = None,
    distill: int | None = None,
    teacher: str | None = None,
    temperature: float | None = None,
    hard_labels: float | None = None,
    features: float | None = None,
    classes: str | None = None,
    repair_bias: bool | None = None,
    qat: int | None = None,
    precision: Literal["int8", "float16", "float32"] | None = None,
    weight_bits: int | None = None,
    max_drop: float | None = None,
    max_latency: float | None = None,
    max_energy: float | None = None,
    max_size: str | None = None,
    max_ram: str | None = None,
    per_day: int | None = None,
    output: str | None = None,
    config: str | None = None,
    seed: int | None = None,
    importance: Literal["l1", "l2", "fpgm", "group", "bn", "taylor", "activation", "reconstruction", "auto"]
    | None = None,
    allocation: Literal["uniform", "even", "global", "sensitivity"] | None = None,
    macs: float | None = None,
    size: str | float | None = None,
    latency: float | None = None,
    prune_rounds: int | None = None,
    calibration: Literal["auto", "minmax", "percentile", "entropy", "mse"] | None = None,
    correction: str | None = None,
    threads: int | None = None,
    input: str | None = None,
    emulate: bool | None = None,
) -> Report:
    """Do what `edgeport build` does and return the report; parameters are the flags, None is the default.

    Raises:
        EdgeportError: see `edgeport.errors`. A figure beyond its limit is no error: see `Report.verdict`.
    """
    from edgeport.options import Options
    from edgeport.pipeline import build as run
    from edgeport.plan import resolve

    flags = Options(
        model=model,
        target=target,
        weights=weights,
        calibrate=calibrate,
        evaluate=evaluate,
        train=train,
        tune=tune,
        prune=prune,
        distill=distill,
        teacher=teacher,
        temperature=temperature,
        hard_labels=hard_labels,
        features=features,
        classes=classes,
        repair_bias=repair_bias,
        qat=qat,
        precision=precision,
        weight_bits=weight_bits,
        max_drop=max_drop,
        max_latency=max_latency,
        max_energy=max_energy,
        max_size=max_size,
        max_ram=max_ram,
        per_day=per_day,
        output=output,
        seed=seed,
        importance=importance,
        allocation=allocation,
        macs=macs,
        size=size,
        latency=latency,
        prune_rounds=prune_rounds,
        calibration=calibration,
        correction=correction,
        threads=threads,
        input=input,
        emulate=emulate,
    )
    return run(resolve(flags, config))


def load_pruned(factory: Callable[[], nn.Module] | nn.Module, directory: str | Path) -> nn.Module:
    """Return the network of an output folder: the factory's network, cut as `structure.json` says.

    Args:
        factory: makes the whole network, or the network itself.
        directory: output folder of a build with `--prune` or `--classes`.

    Raises:
        ConfigError: the folder holds no cut network, or one of another factory.
    """
    from edgeport.pruning.structure import load_pruned as load

    return load(factory, directory)
