"""Wrong data, options and targets: one line, exit code 2, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from e2e_case import NETWORKS, Run, edgeport, refused, target_or_skip

SHAPE = (20, 3, 12, 12)


def samples(seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(SHAPE, np.float32)


def save(path: Path, x: np.ndarray[Any, Any], y: list[int] | None = None) -> None:
    arrays = {"x": x} if y is None else {"x": x, "y": np.array(y)}
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes no dict of arrays


def attempt(folder: Path, *arguments: str) -> Run:
    """Try to build the small network for `cpu` into `out`."""
    common = ("--target", "cpu", "--output", "out")
    return edgeport("build", f"{NETWORKS}:small", *common, *arguments, store=folder / "store", cwd=folder)


def pictures(folder: Path) -> None:
    """Write two class folders of pictures of which one is cut off."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(0, 255, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{number}.png")
    bad = folder / "pictures" / "dog" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])


def not_finite(value: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    x = samples()
    x[13, 1, 2, 3] = value
    return x


WRONG: dict[str, tuple[Callable[[Path], object], str, list[str]]] = {
    "empty": (lambda f: save(f / "d.npz", samples()[:0]), "d.npz", ["d.npz holds no samples"]),
    "float64": (lambda f: save(f / "d.npz", samples().astype(float)), "d.npz", ["x is float64, needs float32"]),
    "channels": (lambda f: save(f / "d.npz", samples()[:, :2]), "d.npz", ["(1, 2, 12, 12)", "e2e_networks.py, line"]),
    "integers": (lambda f: save(f / "d.npz", samples().astype(int)), "d.npz", ["does not take inputs", "long int"]),
    "cut off": (lambda f: (f / "d.npz").write_bytes(b"PK\3\4" * 9), "d.npz", ["d.npz: archive is damaged"]),
    "missing": (lambda f: None, "d.npz", ["no file 'd.npz'"]),
    "empty folder": (lambda f: (f / "d").mkdir(), "d", ["folder 'd' holds no pictures"]),
    "unknown recipe": (lambda f: None, "cifar11", ["no data 'cifar11'", "did you mean cifar10?"]),
    "recipe key": (
        lambda f: (f / "d.toml").write_text('source = "d.npz"\nsplitt = "0:3"\n'),
        "d.toml",
        ["recipe d.toml: unknown key 'splitt'", "did you mean split?"],
    ),
    "nothing yielded": (
        lambda f: (f / "d.py").write_text("def load():\n    return iter(())\n"),
        "d.py:load",
        ["d.py:load yields no samples"],
    ),
    "callable raises": (
        lambda f: (f / "d.py").write_text("def load():\n    raise OSError('camera is off')\n"),
        "d.py:load",
        ["d.py:load raised OSError at line 2: camera is off"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_data_is_refused(tmp_path: Path, name: str) -> None:
    target_or_skip("cpu")
    make, data, words = WRONG[name]
    make(tmp_path)
    refused(attempt(tmp_path, "--precision", "float32", "--evaluate", data), 2, *words, output=tmp_path / "out")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_sample_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    target_or_skip("cpu")
    save(tmp_path / "c.npz", not_finite(value))
    save(tmp_path / "e.npz", samples(1))
    run = attempt(tmp_path, "--calibrate", "c.npz", "--evaluate", "e.npz")
    refused(run, 2, "c.npz: x: sample 13 holds NaN or infinity", output=tmp_path / "out")


@pytest.mark.parametrize("label", [4, -1])
def test_label_out_of_range_is_named(tmp_path: Path, label: int) -> None:
    target_or_skip("cpu")
    save(tmp_path / "e.npz", samples(), [0, 1, 2, 3, 0, 1, 2, label, *[0] * 12])
    run = attempt(tmp_path, "--precision", "float32", "--evaluate", "e.npz")
    refused(run, 2, f"sample 7 (row 7 of e.npz) has label {label}", "4 classes (0..3)", output=tmp_path / "out")


def test_damaged_picture_among_good_ones_is_named(tmp_path: Path) -> None:
    target_or_skip("cpu")
    pictures(tmp_path)
    run = attempt(tmp_path, "--calibrate", "pictures")
    refused(run, 2, "picture 'dog/3.png' is damaged", output=tmp_path / "out")


def test_samples_shared_by_calibration_and_evaluation_are_counted(tmp_path: Path) -> None:
    target_or_skip("cpu")
    first, second = samples(), samples(1)
    save(tmp_path / "c.npz", first)
    save(tmp_path / "e.npz", np.concatenate([second[:5], first[[7, 2]], second[5:]]))
    run = attempt(tmp_path, "--calibrate", "c.npz", "--evaluate", "e.npz")
    words = ("2 samples are in both --calibrate and --evaluate", "first: sample 7 = sample 5")
    refused(run, 2, *words, output=tmp_path / "out")


@pytest.mark.parametrize("flag", ["calibrate", "train"])
def test_samples_of_two_shapes_are_refused(tmp_path: Path, flag: str) -> None:
    target_or_skip("cpu")
    for number, name in enumerate(("calibrate", "evaluate", "train")):
        save(tmp_path / f"{name}.npz", samples(number)[..., :8] if name == flag else samples(number))
    files = [f"--{name}={name}.npz" for name in ("calibrate", "evaluate", "train")]
    words = (f"--{flag} has samples of 3x12x8 float32", "--evaluate of 3x12x12 float32")
    refused(attempt(tmp_path, *files, "--distill=1"), 2, *words, output=tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "arm46"], ["unknown target 'arm46'", "did you mean arm64?"]),
        (["--target", "cpu", "--max-drop", "1"], ["--max-drop 1.0 needs labelled samples", "--evaluate DATA"]),
        (["--target", "cpu", "--input", "3xy"], ["'3xy' is not a shape such as 3x32x32"]),
        (["--target", "board.toml"], ["no target file 'board.toml'"]),
        ([], ["no --target", "arm64", "or all"]),
        (["--target", "cpu", "--evaluate", "e.npz", "--input", "3x12x12"], ["the samples say what the network takes"]),
        (["--target", "cpu", "--calibrate", "c.npz", "--prune", "1.5"], ["--prune 1.5: a share of the filters"]),
        (["--target", "cpu", "--calibrate", "c.npz", "--distill", "2"], ["--distill needs --train DATA"]),
        (["--target", "cpu", "--calibrate", "c.npz", "--output", ""], ["--output is empty"]),
        (["--target", "cpu", "--calibrate", "c.npz", "--seed", str(1 << 64)], ["below 2^63"]),
        (["--target", "cpu", "--config", "other.toml"], ["no configuration file 'other.toml'"]),
        (["--target", "cpu", "--prune", "a half"], ["--prune a half: a share of the filters, from 0 to below 1"]),
        (["--target", "cpu", "--precision", "int4"], ["'--precision'", "int8", "float32"]),
        (["--tagret", "cpu"], ["no such option: --tagret"]),
        (["--seed"], ["option '--seed' requires an argument"]),
    ],
)
def test_wrong_flag_is_refused(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    run = edgeport("build", f"{NETWORKS}:small", *arguments, store=tmp_path / "store", cwd=tmp_path)
    refused(run, 2, *words, output=tmp_path / "edgeport-out")
    assert list(tmp_path.iterdir()) == []  # not even the store was made


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('calibrat = "c.npz"\n', ["edgeport.toml: unknown key 'calibrat'", "did you mean calibrate?"]),
        ('prune = ["much"]\n', ["edgeport.toml", "$.prune"]),
        ("prune = \n", ["edgeport.toml"]),
    ],
)
def test_wrong_configuration_file_is_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "edgeport.toml").write_text(text)
    run = edgeport("build", "--target", "cpu", store=tmp_path / "store", cwd=tmp_path)
    refused(run, 2, *words, output=tmp_path / "edgeport-out")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('description = "x"\nbackend = "onnxruntime"\nisa = "any"\ncoers = ["a"]\n', ["board.toml", "coers"]),
        ('description = "x"\nbackend = "tensorrt"\nisa = "any"\n', ["target board: unknown backend 'tensorrt'"]),
    ],
)
def test_wrong_target_file_is_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "board.toml").write_text(text)
    save(tmp_path / "c.npz", samples())
    arguments = ("--target", "board.toml", "--calibrate", "c.npz", "--output", "out")
    run = edgeport("build", f"{NETWORKS}:small", *arguments, store=tmp_path / "store", cwd=tmp_path)
    refused(run, 2, *words, output=tmp_path / "out")


def test_unknown_command_is_refused(tmp_path: Path) -> None:
    refused(edgeport("biuld", store=tmp_path / "store", cwd=tmp_path), 2, "no such command 'biuld'", "edgeport --help")


ODD: dict[str, tuple[Callable[[], np.ndarray[Any, Any]], int, list[str]]] = {
    "constant": (lambda: np.full(SHAPE, 0.5, np.float32), 0, ["every sample is a single value"]),
    "zeros": (
        lambda: np.zeros(SHAPE, np.float32),
        0,
        ["every sample is all zeros", "biases fit into int32: in first/conv2d"],
    ),
    "one": (lambda: samples()[:1], 0, ["there is 1 sample; give 128 or more"]),
    "outlier": (lambda: with_value(1e30), 6, ["e+29 times larger than usual", "range set by outliers: /images"]),
}


def with_value(value: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    x = samples()
    x[6, 1, 2, 3] = value
    return x


@pytest.mark.parametrize("name", ODD)
def test_odd_calibration_data_end_in_a_judged_build_that_says_so(tmp_path: Path, name: str) -> None:
    target_or_skip("arm64")
    make, code, words = ODD[name]
    save(tmp_path / "c.npz", make())
    save(tmp_path / "e.npz", samples(1))
    data = ("--calibrate", "c.npz", "--evaluate", "e.npz", "--output", "out")
    run = edgeport("build", f"{NETWORKS}:small", "--target", "arm64", *data, store=tmp_path / "store", cwd=tmp_path)
    assert run.code == code, run.err
    said = " ".join(run.out.split())
    for word in words:
        assert word in said
    assert ("verdict: pass" in said) == (code == 0)
