"""One frozen plan of a build: flags over `edgeport.toml` over defaults, every default a value."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from edgeport import profile
from edgeport.backends import NAMES as BACKENDS
from edgeport.errors import ConfigError, did_you_mean
from edgeport.options import CORRECTIONS, Allocation, Correction, Importance, Method, Options, merged, said, words
from edgeport.profile import TargetProfile
from edgeport.pruning import grains
from edgeport.pruning.budget import Budget, parse_bytes, parse_share, parse_size
from edgeport.pruning.grains import Sparsity
from edgeport.types import FEW_BITS, TRAINED_BITS, Precision, WeightBits


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a build needs to know, resolved.

    Fields as in `Options`, and:

    Attributes:
        targets: the profiles, in the order they were named.
        evaluation: where the evaluation samples come from, in words.
        precision: of the shipped file; `dynamic_int8` (int8 weights, float activations) is int8 without --calibrate.
        weight_bits: of int8 files' weights; None: as each target says.
        corrections: `auto`, or the weight corrections to make, in order.
        prune: share of filters to cut, 0..1.
        per_day: inferences a day; None: no energy of a day.
        teachers: networks that a student learns from; empty: the one that came in.
        classes: those to keep, as they were written; empty: all.
        prune_blocks: residual blocks to leave out before that.
        sparsity: weights that become zero after that.
        budgets: what may be left of the network instead.
        emulate: whether files are run on emulated processors.
        channel_multiple: what pruned channel counts are rounded to: the least common multiple over the targets.
    """

    model: str
    weights: str | None
    targets: tuple[TargetProfile, ...]
    calibrate: str | None
    evaluate: str | None
    evaluation: str
    train: str | None
    tune: str | None
    prune: float
    prune_blocks: int
    sparsity: tuple[Sparsity, ...]
    distill: int
    teachers: tuple[str, ...]
    temperature: float
    hard_labels: float
    features: float
    classes: tuple[str, ...]
    repair_bias: bool
    qat: int
    precision: Precision
    weight_bits: WeightBits | None
    max_drop: float | None
    per_day: int | None
    output: str
    seed: int
    importance: Importance
    allocation: Allocation
    budgets: tuple[Budget, ...]
    prune_rounds: int
    calibration: Method
    corrections: Literal["auto"] | tuple[Correction, ...]
    threads: int
    channel_multiple: int
    input: str | None
    emulate: bool = True

    @property
    def trains(self) -> bool:
        """Whether a stage learns from --train."""
        return bool(self.distill or self.qat)

    @property
    def prunes(self) -> bool:
        """Whether a stage takes weights out of the network."""
        return bool(self.prune or self.prune_blocks or self.budgets or self.sparsity)

    @property
    def has_data(self) -> bool:
        """Whether there are samples to compare with; otherwise random ones are made once the network is known."""
        return self.calibrate is not None or self.evaluate is not None


def resolve(flags: Options, config: str | None = None) -> Plan:
    """Merge flags over the configuration file over defaults.

    Args:
        flags: what the command line says.
        config: an `edgeport.toml`; without it the one in the current folder is used when there is one.

    Raises:
        ConfigError: an unknown key, an ill-typed or impossible value, or an unknown target.
    """
    options = merged(flags, config)
    if options.target is None:
        raise ConfigError(f"no --target; known: {', '.join(profile.known_targets())}, or all")
    targets = tuple(_limited(target, options) for target in _targets(options.target))
    pruning = grains.parse(options.prune or 0)
    return Plan(
        model=str(options.model),
        weights=options.weights,
        targets=targets,
        calibrate=options.calibrate,
        evaluate=options.evaluate,
        evaluation=_evaluation(options),
        train=options.train,
        tune=options.tune,
        prune=pruning.filters,
        prune_blocks=pruning.blocks,
        sparsity=pruning.sparsity,
        distill=int(options.distill or 0),
        teachers=words(options.teacher),
        temperature=said(options.temperature),
        hard_labels=said(options.hard_labels),
        features=said(options.features),
        classes=words(options.classes),
        repair_bias=bool(options.repair_bias),
        qat=int(options.qat or 0),
        precision=_precision(options),
        weight_bits=_weight_bits(options),
        max_drop=options.max_drop,
        per_day=options.per_day,
        output=str(options.output),
        seed=int(options.seed or 0),
        importance=options.importance or "l1",
        allocation=options.allocation or "uniform",
        budgets=_budgets(options, pruning.filters),
        prune_rounds=int(options.prune_rounds or 1),
        calibration=options.calibration or "auto",
        corrections=_corrections(options.correction or "auto"),
        threads=int(options.threads or 1),
        channel_multiple=math.lcm(*(target.channel_multiple for target in targets)),
        input=options.input,
        emulate=options.emulate is not False,
    )


def _limited(target: TargetProfile, options: Options) -> TargetProfile:
    """Return the target with the limits that flags set over its own."""
    said_limits = {
        "max_latency_ms": options.max_latency,
        "max_energy_mj": options.max_energy,
        "max_size_bytes": None if options.max_size is None else parse_bytes("--max-size", options.max_size),
        "max_ram_bytes": None if options.max_ram is None else parse_bytes("--max-ram", options.max_ram),
    }
    given = {name: value for name, value in said_limits.items() if value is not None}
    return msgspec.structs.replace(target, limits=msgspec.structs.replace(target.limits, **given)) if given else target


def _budgets(options: Options, filters: float) -> tuple[Budget, ...]:
    """Return what `--macs`, `--size` and `--latency` ask for; `filters`: the share of them that `--prune` cuts."""
    found = []
    if options.macs is not None:
        found.append(parse_share("macs", options.macs))
    if options.size is not None:
        found.append(parse_size(options.size))
    if options.latency is not None:
        found.append(parse_share("latency", options.latency))
    if found and filters:
        raise ConfigError(f"--prune filter:{filters:g} and {found[0]} say how far to cut in different ways; give one")
    return tuple(found)


def _precision(options: Options) -> Precision:
    if options.precision == "int8" and options.calibrate is None:
        return "dynamic_int8"
    return options.precision or "int8"


def _weight_bits(options: Options) -> WeightBits | None:
    """Return the bits that were asked for; None where each target's own hold."""
    bits = options.weight_bits
    if bits == 8:
        return None
    few = next((known for known in FEW_BITS if known == bits), None)
    if few is None:
        raise ConfigError(
            f"--weight-bits {bits}: 8 (each target's own), 4, 2 (ternary, with --qat) or 1 (binary, with --qat)"
        )
    if _precision(options) != "int8":
        raise ConfigError(f"--weight-bits {bits} is for int8 files, which need --calibrate DATA and --precision int8")
    if bits in TRAINED_BITS and not options.qat:
        raise ConfigError(f"--weight-bits {bits} is only of use where weights are trained for it: give --qat EPOCHS")
    return few


def _evaluation(options: Options) -> str:
    if options.evaluate is not None:
        return options.evaluate
    if options.calibrate is None:
        return "random inputs"
    return "every fifth sample of --calibrate, held out"


def _corrections(text: str) -> Literal["auto"] | tuple[Correction, ...]:
    if text == "auto":
        return "auto"
    names = [] if text == "none" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in CORRECTIONS:
            known = ["auto", "none", *CORRECTIONS]
            raise ConfigError(f"unknown --correction '{name}'; known: {', '.join(known)}{did_you_mean(name, known)}")
    return tuple(name for name in CORRECTIONS if name in names)


def _targets(names: str) -> tuple[TargetProfile, ...]:
    wanted = profile.known_targets() if names == "all" else [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise ConfigError(f"--target '{names}' names no target; known: {', '.join(profile.known_targets())}, or all")
    profiles = [profile.load(name) for name in dict.fromkeys(wanted)]
    for target in profiles:
        if target.backend not in BACKENDS:
            raise ConfigError(
                f"target {target.name}: unknown backend '{target.backend}'; known: {', '.join(BACKENDS)}"
                f"{did_you_mean(target.backend, list(BACKENDS))}"
            )
    stems = [target.name for target in profiles]
    for stem in stems:
        if stems.count(stem) > 1:
            raise ConfigError(f"two targets are named '{stem}'; rename one file")
    return tuple(profiles)
