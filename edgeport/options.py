"""What a user may set: flags over `edgeport.toml` over defaults, and what does not go together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from edgeport.errors import ConfigError, did_you_mean
from edgeport.graph.inputs import parse_inputs

Method = Literal["auto", "minmax", "percentile", "entropy", "mse"]

Importance = Literal["l1", "l2", "fpgm", "group", "bn", "taylor", "activation", "reconstruction", "auto"]
Allocation = Literal["uniform", "even", "global", "sensitivity"]
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
        max_latency: milliseconds that an inference may take on the target, median.
        max_energy: millijoules that an inference may take on the target.
        max_size: bytes that the shipped file may have, such as `500kB`.
        max_ram: bytes that it may need while it runs, such as `256kB`.
        per_day: inferences a day, for the energy of a day.
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
        emulate: run files on emulated processors where the emulator is there.
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
    max_latency: float | None = None
    max_energy: float | None = None
    max_size: str | None = None
    max_ram: str | None = None
    per_day: int | None = None
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
    emulate: bool | None = None


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
    emulate=True,
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


def merged(flags: Options, config: str | None = None) -> Options:
    """Merge flags over the configuration file over defaults; without a model, over the embedded default's.

    Args:
        flags: what the command line says.
        config: an `edgeport.toml`; without it the one in the current folder is used when there is one.

    Raises:
        ConfigError: an unknown key, or an ill-typed or impossible value.
    """
    base = _over(flags, _read_config(config))
    if base.prune is None and any(budget is not None for budget in (base.macs, base.size, base.latency)):
        base = msgspec.structs.replace(base, prune=0.0)  # a budget is instead of it, of the demo's too
    options = _over(base, _over(DEMO_OPTIONS, DEFAULTS) if base.model is None else DEFAULTS)
    _check(options)
    return options


def _over(upper: Options, lower: Options) -> Options:
    given = {key: value for key, value in msgspec.structs.asdict(upper).items() if value is not None}
    return msgspec.structs.replace(lower, **given)


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
    classes = words(options.classes)
    rules = {
        f"--distill {options.distill}: a number of epochs, 0 or more": (options.distill or 0) >= 0,
        f"--max-drop {options.max_drop}: points of top-1, 0 or more": (options.max_drop or 0) >= 0,
        f"--max-latency {options.max_latency}: milliseconds, above 0": _is_positive(options.max_latency),
        f"--max-energy {options.max_energy}: millijoules, above 0": _is_positive(options.max_energy),
        f"--per-day {options.per_day}: inferences a day, 1 or more": options.per_day is None or options.per_day >= 1,
        f"--threads {options.threads}: 1 or more": options.threads is None or options.threads >= 1,
        f"--seed {options.seed}: 0 or more, below 2^63": 0 <= (options.seed or 0) < 1 << 63,
        "--output is empty; name a folder": options.output != "",
        f"--qat {options.qat}: a number of epochs, 0 or more": (options.qat or 0) >= 0,
        f"--temperature {options.temperature}: above 0": 0 < said(options.temperature) < math.inf,
        f"--hard-labels {options.hard_labels}: a share of the loss, 0 to 1": 0 <= said(options.hard_labels) <= 1,
        f"--features {options.features}: a weight, 0 or more": 0 <= said(options.features) < math.inf,
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


def _is_positive(value: float | None) -> bool:
    return value is None or 0 < value < math.inf


def words(text: str | None) -> tuple[str, ...]:
    """Return the words of a comma-separated list."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def said(value: float | None) -> float:
    """Return an option that has a default."""
    if value is None:
        raise ValueError("this option has no default")
    return value
