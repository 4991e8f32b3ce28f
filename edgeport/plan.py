"""One frozen plan of a build: flags over `edgeport.toml` over defaults, every default a value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from edgeport import profile
from edgeport.backends import NAMES as BACKENDS
from edgeport.errors import ConfigError, did_you_mean
from edgeport.graph.inputs import parse_inputs
from edgeport.profile import TargetProfile
from edgeport.pruning import grains
from edgeport.pruning.budget import Budget, parse_latency, parse_macs, parse_size
from edgeport.pruning.grains import Sparsity
from edgeport.types import FEW_BITS, TRAINED_BITS, Precision, WeightBits

Method = Literal["auto", "minmax", "percentile", "entropy", "mse"]

Importance = Literal["l1", "l2", "fpgm", "bn", "taylor", "activation", "auto"]
Allocation = Literal["uniform", "global", "sensitivity"]
Correction = Literal["equalize", "bias", "adaround"]
CORRECTIONS: tuple[Correction, ...] = ("equalize", "bias", "adaround")  # in the order they are made

DEMO = "edgeport.demo.net:digits"
DEMO_DATA = Path(__file__).resolve().parent / "demo" / "data.py"


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """What a user may set, as flags or in `edgeport.toml`; None: not said.

    Attributes:
        model: `module:factory`, `file.py:factory` or a `.pt2`.
        target: names or paths, comma separated, or `all`.
        weights: `.safetensors` or state-dict `.pt`.
        calibrate: samples for activation ranges.
        evaluate: samples for the verdict.
        train: samples for distillation.
        tune: labelled samples on which choices are made (corrections, layers of higher precision).
        prune: share of filters to cut, 0..1, or grains of pruning (see `edgeport.pruning.grains`).
        distill: epochs of distillation.
        teacher: networks that a student learns from instead of `model`, comma separated, each written as `model` is.
        temperature: softens the answers of teacher and student, above 0.
        hard_labels: share of a student's loss that labels have, 0..1; 1: no teacher is asked.
        features: weight of the distance between attention maps in distillation, 0 or more.
        classes: of the network's, those to keep: names or indices, comma separated.
        repair_bias: shift the scores of classes that the training samples lack, after distillation.
        qat: epochs of quantization-aware training of the int8 files.
        precision: number format of the shipped file.
        weight_bits: of int8 files' weights: 8 (or 7, as the target says), 4, 2 (ternary) or 1 (binary).
        max_drop: points of top-1 that may be lost.
        output: folder for the results.
        seed: of everything random.
        importance: how filters are ranked.
        allocation: how the cut is shared out among layers.
        macs: share of the multiply-adds to keep, instead of `prune`.
        size: bytes of weights to keep, such as `500kB`, or a share of them; instead of `prune`.
        latency: share of the float file's latency to keep, on the target where it is most; instead of `prune`.
        prune_rounds: cuts on the way to a budget, each followed by a share of the epochs of `distill`.
        calibration: how ranges are made of activation statistics.
        correction: weight corrections before rounding: `auto`, `none`, or some of `equalize`, `bias`, `adaround`.
        threads: for this build's own computing.
        input: what the network takes, where no data says it: a shape an input.
    """

    model: str | None = None
    target: str | None = None
    weights: str | None = None
    calibrate: str | None = None
    evaluate: str | None = None
    train: str | None = None
    tune: str | None = None
    prune: float | str | None = None
    distill: int | None = None
    teacher: str | None = None
    temperature: float | None = None
    hard_labels: float | None = None
    features: float | None = None
    classes: str | None = None
    repair_bias: bool | None = None
    qat: int | None = None
    precision: Literal["int8", "float16", "float32"] | None = None
    weight_bits: int | None = None
    max_drop: float | None = None
    output: str | None = None
    seed: int | None = None
    importance: Importance | None = None
    allocation: Allocation | None = None
    macs: float | None = None
    size: str | float | None = None
    latency: float | None = None
    prune_rounds: int | None = None
    calibration: Method | None = None
    correction: str | None = None
    threads: int | None = None
    input: str | None = None


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
        teachers: networks that a student learns from; empty: the one that came in.
        classes: those to keep, as they were written; empty: all.
        prune_blocks: residual blocks to leave out before that.
        sparsity: weights that become zero after that.
        budgets: what may be left of the network instead.
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

    @property
    def trains(self) -> bool:
        """Whether a stage learns from --train."""
        return bool(self.distill or self.qat)

    @property
    def has_data(self) -> bool:
        """Whether there are samples to compare with; otherwise random ones are made once the network is known."""
        return self.calibrate is not None or self.evaluate is not None


DEFAULTS = Options(
    prune=0.0,
    distill=0,
    qat=0,
    temperature=4.0,
    hard_labels=0.1,
    features=0.0,
    repair_bias=False,
    precision="int8",
    weight_bits=8,
    output="edgeport-out",
    seed=0,
    importance="l1",
    allocation="uniform",
    prune_rounds=1,
    calibration="auto",
    correction="auto",
    threads=1,
)

# Without MODEL: the embedded network with its own data, through every stage.
DEMO_OPTIONS = Options(
    model=DEMO,
    calibrate=f"{DEMO_DATA}:calibrate",
    evaluate=f"{DEMO_DATA}:evaluate",
    train=f"{DEMO_DATA}:train",
    prune=0.5,
    distill=6,
)


def resolve(flags: Options, config: str | None = None) -> Plan:
    """Merge flags over the configuration file over defaults.

    Args:
        flags: what the command line says.
        config: an `edgeport.toml`; without it the one in the current folder is used when there is one.

    Raises:
        ConfigError: an unknown key, an ill-typed or impossible value, or an unknown target.
    """
    written = _read_config(config)
    base = _over(flags, written)
    if base.prune is None and any(budget is not None for budget in (base.macs, base.size, base.latency)):
        base = msgspec.structs.replace(base, prune=0.0)  # a budget is instead of it, of the demo's too
    options = _over(base, _over(DEMO_OPTIONS, DEFAULTS) if base.model is None else DEFAULTS)
    if options.target is None:
        raise ConfigError(f"no --target; known: {', '.join(profile.known_targets())}, or all")
    targets = _targets(options.target)
    _check(options)
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
        teachers=_words(options.teacher),
        temperature=_said(options.temperature),
        hard_labels=_said(options.hard_labels),
        features=_said(options.features),
        classes=_words(options.classes),
        repair_bias=bool(options.repair_bias),
        qat=int(options.qat or 0),
        precision=_precision(options),
        weight_bits=_weight_bits(options),
        max_drop=options.max_drop,
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
    )


def _over(upper: Options, lower: Options) -> Options:
    said = {key: value for key, value in msgspec.structs.asdict(upper).items() if value is not None}
    return msgspec.structs.replace(lower, **said)


def _read_config(config: str | None) -> Options:
    path = Path(config) if config is not None else Path("edgeport.toml")
    if config is None and not path.is_file():
        return Options()
    try:
        written: Mapping[str, object] = msgspec.toml.decode(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration file '{path}'") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"configuration file {path.name}: {error}") from error
    known = [field.encode_name for field in msgspec.structs.fields(Options)]
    for key in written:
        if key not in known:
            raise ConfigError(f"configuration file {path.name}: unknown key '{key}'{did_you_mean(key, known)}")
    try:
        return msgspec.convert(written, Options)
    except msgspec.ValidationError as error:
        raise ConfigError(f"configuration file {path.name}: {error}") from error


def _check(options: Options) -> None:
    has_data = options.calibrate is not None or options.evaluate is not None
    classes = _words(options.classes)
    rules = {
        f"--distill {options.distill}: a number of epochs, 0 or more": (options.distill or 0) >= 0,
        f"--max-drop {options.max_drop}: points of top-1, 0 or more": (options.max_drop or 0) >= 0,
        f"--threads {options.threads}: 1 or more": options.threads is None or options.threads >= 1,
        f"--seed {options.seed}: 0 or more, below 2^63": 0 <= (options.seed or 0) < 1 << 63,
        "--output is empty; name a folder": options.output != "",
        f"--qat {options.qat}: a number of epochs, 0 or more": (options.qat or 0) >= 0,
        f"--temperature {options.temperature}: above 0": 0 < _said(options.temperature) < math.inf,
        f"--hard-labels {options.hard_labels}: a share of the loss, 0 to 1": 0 <= _said(options.hard_labels) <= 1,
        f"--features {options.features}: a weight, 0 or more": 0 <= _said(options.features) < math.inf,
        "--features is for --distill; give it": not options.features or bool(options.distill),
        "--teacher is for --distill or --qat; give one of them": (
            options.teacher is None or bool(options.distill or options.qat)
        ),
        "--hard-labels 1 asks no teacher; drop --teacher": options.teacher is None or options.hard_labels != 1,
        f"--classes {options.classes}: name two classes or more, comma separated": (
            options.classes is None or len(classes) > 1
        ),
        f"--classes {options.classes}: a class is named twice": len(set(classes)) == len(classes),
        "--repair-bias is for --distill; give a number of epochs": not options.repair_bias or bool(options.distill),
        "--repair-bias does not go with --qat, whose training undoes it; drop one": not (
            options.repair_bias and options.qat
        ),
        "--qat needs --train DATA": not options.qat or options.train is not None,
        "--qat trains int8 files, which need --calibrate DATA and --precision int8": (
            not options.qat or (options.calibrate is not None and options.precision == "int8")
        ),
        f"--prune-rounds {options.prune_rounds}: a number of cuts, 1 or more": (options.prune_rounds or 0) >= 1,
        "--prune-rounds cuts on the way to a budget; give --macs, --size or --latency": (
            options.prune_rounds == 1
            or any(found is not None for found in (options.macs, options.size, options.latency))
        ),
        f"--prune-rounds {options.prune_rounds} distills after every cut; give as many epochs with --distill": (
            options.prune_rounds == 1 or (options.distill or 0) >= (options.prune_rounds or 0)
        ),
        "--distill needs --train DATA": not options.distill or options.train is not None,
        f"--max-drop {options.max_drop} needs labelled samples to check it on: give --evaluate DATA": (
            options.max_drop is None or has_data
        ),
        f"--input {options.input}: the samples say what the network takes; give it only without data": (
            options.input is None or not has_data
        ),
    }
    for message, holds in rules.items():
        if not holds:
            raise ConfigError(message)
    if options.input is not None:
        parse_inputs(options.input)


def _words(text: str | None) -> tuple[str, ...]:
    """Return the words of a comma-separated list."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _said(value: float | None) -> float:
    """Return an option that has a default."""
    if value is None:
        raise ValueError("this option has no default")
    return value


def _budgets(options: Options, filters: float) -> tuple[Budget, ...]:
    """Return what `--macs`, `--size` and `--latency` ask for; `filters`: the share of them that `--prune` cuts."""
    found = []
    if options.macs is not None:
        found.append(parse_macs(options.macs))
    if options.size is not None:
        found.append(parse_size(options.size))
    if options.latency is not None:
        found.append(parse_latency(options.latency))
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
