"""One plan: flags over edgeport.toml over defaults, and every impossible wish told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgeport.errors import ConfigError
from edgeport.options import DEMO, Options
from edgeport.plan import Plan, resolve
from edgeport.profile import known_targets

TARGET = 'description = "mine"\nbackend = "tflite"\nisa = "aarch64"\n'


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def options(**said: object) -> Options:
    """Return flags of a build of one's own network, and what is said besides."""
    base = Options(model="net.py:net", target="arm64", calibrate="data.npz")
    return msgspec.structs.replace(base, **said)


def config(text: str, name: str = "edgeport.toml") -> str:
    Path(name).write_text(text)
    return name


def target_file(name: str, multiple: int, folder: str = ".") -> str:
    path = Path(folder) / f"{name}.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{TARGET}channel_multiple = {multiple}\n")
    return str(path)


def message(flags: Options, path: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(flags, path)
    return str(caught.value)


def test_every_default_is_a_value() -> None:
    plan = resolve(options())
    assert msgspec.structs.asdict(plan) | {"targets": [target.name for target in plan.targets]} == {
        "model": "net.py:net",
        "weights": None,
        "targets": ["arm64"],
        "calibrate": "data.npz",
        "evaluate": None,
        "evaluation": "every fifth sample of --calibrate, held out",
        "train": None,
        "prune": 0.0,
        "sparsity": (),
        "prune_blocks": 0,
        "distill": 0,
        "teachers": (),
        "temperature": 4.0,
        "hard_labels": 0.1,
        "features": 0.0,
        "classes": (),
        "repair_bias": False,
        "qat": 0,
        "precision": "int8",
        "weight_bits": None,
        "max_drop": None,
        "per_day": None,
        "output": "edgeport-out",
        "seed": 0,
        "importance": "l1",
        "allocation": "uniform",
        "budgets": (),
        "prune_rounds": 1,
        "calibration": "auto",
        "corrections": "auto",
        "tune": None,
        "input": None,
        "emulate": True,
        "threads": 1,
        "channel_multiple": 8,
    }


def test_flags_go_over_the_file_and_the_file_over_defaults() -> None:
    config('prune = 0.5\nseed = 7\noutput = "there"\nmax-drop = 2.5\nimportance = "l2"\nthreads = 2\n')
    plan = resolve(options(prune=0.25, seed=0))
    assert (plan.prune, plan.seed) == (0.25, 0)  # said, though 0 is the default too
    assert (plan.output, plan.max_drop, plan.importance, plan.threads) == ("there", 2.5, "l2", 2)
    assert (plan.precision, plan.calibration) == ("int8", "auto")


def test_whole_plan_may_come_from_a_file() -> None:
    path = config(
        'model = "a.b:make"\ntarget = "cpu,intel"\nweights = "w.pt"\ncalibrate = "c.npz"\nevaluate = "e.npz"\n'
        'train = "t.npz"\ndistill = 3\nprecision = "float32"\ncalibration = "percentile"\n',
        "other.toml",
    )
    plan = resolve(Options(), path)
    assert (plan.model, plan.weights, plan.distill) == ("a.b:make", "w.pt", 3)
    assert (plan.calibrate, plan.evaluate, plan.train, plan.evaluation) == ("c.npz", "e.npz", "t.npz", "e.npz")
    assert ([target.name for target in plan.targets], plan.precision) == (["cpu", "intel"], "float32")
    assert plan.calibration == "percentile"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("auto", "auto"),
        ("none", ()),
        ("bias", ("bias",)),
        ("adaround, equalize", ("equalize", "adaround")),  # in the order they are made, not in the one they are said
        ("bias,bias", ("bias",)),
    ],
)
def test_corrections_are_named_one_by_one(said: str, expected: object) -> None:
    assert resolve(options(correction=said)).corrections == expected
    config(f'correction = "{said}"\n')
    assert resolve(options()).corrections == expected


def test_classes_are_words() -> None:
    assert resolve(options(classes="cat, 5 ,dog")).classes == ("cat", "5", "dog")
    config('classes = "1,2"\ndistill = 1\ntrain = "t.npz"\nrepair-bias = true\n')
    plan = resolve(options())
    assert (plan.classes, plan.repair_bias) == (("1", "2"), True)


@pytest.mark.parametrize("method", ["auto", "minmax", "percentile", "entropy", "mse"])
def test_every_range_estimator_can_be_asked_for(method: str) -> None:
    config(f'calibration = "{method}"\n')
    assert resolve(options()).calibration == method


def test_chosen_file_replaces_the_one_in_the_folder() -> None:
    config("seed = 1\n")
    assert resolve(options(), config("threads = 3\n", "other.toml")).seed == 0


def test_without_model_the_embedded_default_goes_through_every_stage() -> None:
    plan = resolve(Options(target="arm64"))
    assert plan.model == DEMO
    assert plan.prune > 0
    assert plan.distill > 0
    for data in (plan.calibrate, plan.evaluate, plan.train):
        assert data is not None
        assert Path(data.rpartition(":")[0]).is_file()
    assert resolve(Options(target="arm64", prune=0.0, distill=0)).prune == 0  # what is said holds


def test_with_a_model_nothing_of_the_default_is_taken() -> None:
    plan = resolve(options())
    assert (plan.prune, plan.distill, plan.evaluate, plan.train) == (0, 0, None, None)
    config('model = "net.py:net"\n')
    assert resolve(Options(target="arm64")).evaluation == "random inputs"


def test_plan_is_frozen_and_can_be_printed() -> None:
    plan = resolve(options())
    with pytest.raises(AttributeError):
        plan.seed = 1  # type: ignore[misc]  # what is tested
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_channels_are_rounded_to_what_suits_every_target() -> None:
    names = ",".join(target_file(f"board{multiple}", multiple) for multiple in (4, 6, 8))
    assert resolve(options(target=names)).channel_multiple == 24
    assert resolve(options(target=target_file("odd", 1))).channel_multiple == 1


def test_targets_keep_their_order_and_count_once() -> None:
    plan = resolve(options(target="intel, arm64 ,intel,"))
    assert [target.name for target in plan.targets] == ["intel", "arm64"]


def test_all_targets() -> None:
    assert [target.name for target in resolve(options(target="all")).targets] == known_targets()


def test_target_may_be_a_path() -> None:
    plan = resolve(options(target=f"arm64,{target_file('my-board', 16, 'boards')}"))
    assert [target.name for target in plan.targets] == ["arm64", "my-board"]
    assert plan.channel_multiple == 16


def test_two_targets_of_one_name_would_share_a_folder() -> None:
    assert (
        message(options(target=f"arm64,{target_file('arm64', 8)}")) == "two targets are named 'arm64'; rename one file"
    )


def test_precision_float32_needs_no_calibration() -> None:
    plan = resolve(options(calibrate=None, evaluate="e.npz", precision="float32"))
    assert (plan.precision, plan.calibrate, plan.evaluation) == ("float32", None, "e.npz")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ("int8", "every fifth sample of --calibrate, held out")),
        ({"calibrate": None}, ("dynamic_int8", "random inputs")),
        ({"calibrate": None, "evaluate": "e.npz"}, ("dynamic_int8", "e.npz")),
        ({"calibrate": None, "precision": "float16"}, ("float16", "random inputs")),
    ],
)
def test_int8_without_calibration_is_of_weights_alone(said: dict[str, object], expected: tuple[str, str]) -> None:
    plan = resolve(options(**said))
    assert (plan.precision, plan.evaluation) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"target": None}, f"no --target; known: {', '.join(known_targets())}, or all"),
        ({"target": " , "}, f"--target ' , ' names no target; known: {', '.join(known_targets())}, or all"),
        ({"prune": 1.0}, "--prune 1.0: a share of the filters, from 0 to below 1"),
        ({"prune": -0.1}, "--prune -0.1: a share of the filters, from 0 to below 1"),
        ({"prune": float("nan")}, "--prune nan: a share of the filters, from 0 to below 1"),
        ({"distill": -1, "train": "t.npz"}, "--distill -1: a number of epochs, 0 or more"),
        ({"distill": 2}, "--distill needs --train DATA"),
        ({"max_drop": -0.5}, "--max-drop -0.5: points of top-1, 0 or more"),
        ({"max_drop": float("nan")}, "--max-drop nan: points of top-1, 0 or more"),
        ({"classes": "3"}, "--classes 3: name two classes or more, comma separated"),
        ({"classes": ""}, "--classes : name two classes or more, comma separated"),
        ({"classes": "3, 5,3"}, "--classes 3, 5,3: a class is named twice"),
        ({"repair_bias": True}, "--repair-bias is for --distill; give a number of epochs"),
        (
            {"repair_bias": True, "distill": 1, "qat": 1, "train": "t.npz"},
            "--repair-bias does not go with --qat, whose training undoes it; drop one",
        ),
        ({"threads": 0}, "--threads 0: 1 or more"),
        ({"threads": -2}, "--threads -2: 1 or more"),
        ({"seed": -1}, "--seed -1: 0 or more, below 2^63"),
        (
            {"correction": "biass"},
            "unknown --correction 'biass'; known: auto, none, equalize, bias, adaround (did you mean bias?)",
        ),
        (
            {"correction": "auto,bias"},
            "unknown --correction 'auto'; known: auto, none, equalize, bias, adaround (did you mean auto?)",
        ),
        (
            {"calibrate": None, "max_drop": 1.0},
            "--max-drop 1.0 needs labelled samples to check it on: give --evaluate DATA",
        ),
        (
            {"input": "3x32x32"},
            "--input 3x32x32: the samples say what the network takes; give it only without data",
        ),
        (
            {"calibrate": None, "input": "3x3", "precision": "float16", "prune": 1.5},
            "--prune 1.5: a share of the filters, from 0 to below 1",
        ),
    ],
)
def test_impossible_wish_is_told(said: dict[str, object], expected: str) -> None:
    assert message(options(**said)) == expected


@pytest.mark.parametrize("bits", [0, 3, 5, 7, 16])
def test_other_weight_bits_are_refused_with_what_is_allowed(bits: int) -> None:
    expected = f"--weight-bits {bits}: 8 (each target's own), 4, 2 (ternary, with --qat) or 1 (binary, with --qat)"
    assert message(options(weight_bits=bits)) == expected


@pytest.mark.parametrize("bits", [2, 1])
def test_ternary_and_binary_weights_need_training(bits: int) -> None:
    expected = f"--weight-bits {bits} is only of use where weights are trained for it: give --qat EPOCHS"
    assert message(options(weight_bits=bits)) == expected
    assert resolve(options(weight_bits=bits, qat=1, train="t.npz")).weight_bits == bits


def test_few_weight_bits_are_for_int8_files() -> None:
    for said in ({"calibrate": None}, {"precision": "float16"}):
        expected = "--weight-bits 4 is for int8 files, which need --calibrate DATA and --precision int8"
        assert message(options(weight_bits=4, **said)) == expected
    assert resolve(options(weight_bits=4)).weight_bits == 4


def test_unknown_key_names_the_nearest() -> None:
    assert (
        message(options(), config("max-dorp = 1\n"))
        == "configuration file edgeport.toml: unknown key 'max-dorp' (did you mean max-drop?)"
    )
    assert message(options(), config("zzz = 1\n")) == "configuration file edgeport.toml: unknown key 'zzz'"
    config("prun = 0.5\n")
    assert "did you mean prune?" in message(options())  # also when the file was not named


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('prune = ["half"]', r"Expected `float \| str \| null`, got `array` - at `\$.prune`"),
        ("seed = 1.5", r"Expected `int \| null`, got `float` - at `\$.seed`"),
        ('precision = "int4"', "Invalid enum value 'int4'"),
        ('target = ["arm64"]', r"Expected `str \| null`, got `array` - at `\$.target`"),
        ("seed = ", "Invalid"),
    ],
)
def test_wrong_value_in_the_file_is_told_with_its_key(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"configuration file edgeport.toml: .*{expected}"):
        resolve(options(), config(text))


def test_missing_or_unreadable_file_is_told() -> None:
    assert message(options(), "none.toml") == "no configuration file 'none.toml'"
    Path("edgeport.toml").write_bytes(b"\xff\xfe")
    assert message(options()).startswith("configuration file edgeport.toml: ")
    Path("folder.toml").mkdir()
    assert message(options(), "folder.toml").startswith("configuration file folder.toml: ")
