"""A wrong network or wrong weights: one line, the right exit code, nothing written."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e_case import NETWORKS, Run, edgeport, files_of, refused, target_or_skip, write_samples


def attempt(model: str | Path, folder: Path, *arguments: str | Path) -> Run:
    """Try to build a float32 file for `cpu` from twenty samples, in `folder`."""
    if not (folder / "samples.npz").exists():
        write_samples(folder / "samples.npz", {"x": (20, 3, 12, 12)}, classes=4)
    common = ("--target", "cpu", "--precision", "float32", "--evaluate", "samples.npz", "--output", "out")
    return edgeport("build", model, *common, *arguments, store=folder / "store", cwd=folder)


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("missing.py:net", 2, ["no model file 'missing.py'"]),
        ("missing.pt2", 2, ["no model file 'missing.pt2'"]),
        ("no_such_module:net", 2, ["no module 'no_such_module'"]),
        ("edgeport.demo.net:digit", 2, ["no callable 'digit'", "did you mean digits?"]),
        ("NETWORKS:smal", 2, ["no callable 'smal'", "did you mean small?"]),
        ("NETWORKS:NOT_CALLABLE", 2, ["no callable 'NOT_CALLABLE'"]),
        ("network", 2, ["module:factory"]),
        ("NETWORKS:raising", 4, ["ValueError: width must be even, got 7", "e2e_networks.py, line "]),
        ("NETWORKS:leaving", 4, ["SystemExit: usage: train.py", "e2e_networks.py, line "]),
        ("NETWORKS:no_network", 2, ["returned dict, not a torch.nn.Module"]),
        ("NETWORKS:with_nan", 4, ["weight 'second.weight' holds NaN or infinite values"]),
        ("NETWORKS:scalar", 4, ["output 0 has the shape ()", "batch dimension"]),
        ("NETWORKS:static", 2, ["does not take inputs of shape (1, 3, 12, 12)", "e2e_networks.py, line "]),
        ("NETWORKS:no_tensor", 4, ["returns float", "outputs must be tensors"]),
    ],
)
def test_wrong_network_is_refused(tmp_path: Path, model: str, code: int, words: list[str]) -> None:
    target_or_skip("cpu")
    refused(attempt(model.replace("NETWORKS", str(NETWORKS)), tmp_path), code, *words, output=tmp_path / "out")


def test_untraceable_network_is_told_with_the_users_line(tmp_path: Path) -> None:
    target_or_skip("cpu")
    source = NETWORKS.read_text(encoding="utf-8").splitlines()
    line = next(number for number, text in enumerate(source, 1) if "the line that the error must name" in text)
    write_samples(tmp_path / "samples.npz", {"x": (20, 4)})
    run = attempt(f"{NETWORKS}:branching", tmp_path)
    refused(run, 4, "trace: ", f"(e2e_networks.py, line {line}: if values.sum() > 0:", output=tmp_path / "out")
    assert "def forward" not in run.err  # torch prints the graph so far; it belongs to nobody's screen


def test_module_that_does_not_import_is_told_with_its_line(tmp_path: Path) -> None:
    target_or_skip("cpu")
    (tmp_path / "net.py").write_text("import torch\n\nimport no_such_package\n")
    words = ("importing 'net.py' raised ModuleNotFoundError", "no_such_package", "net.py, line 3")
    refused(attempt("net.py:net", tmp_path), 4, *words, output=tmp_path / "out")


@pytest.mark.parametrize("name", ["garbage.pt2", "program_cut.pt2"])
def test_damaged_program_is_refused(tmp_path: Path, name: str) -> None:
    target_or_skip("cpu")
    if name == "garbage.pt2":
        (tmp_path / name).write_bytes(b"no program " * 50)
    else:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:  # a zip file, but not one of torch.export.save
            archive.writestr("archive/version", "0")
    refused(
        attempt(name, tmp_path), 2, f"'{name}' is not a program saved by torch.export.save", output=tmp_path / "out"
    )


def save_weights(folder: Path, name: str) -> None:
    """Write the weights file that a test is about."""
    import torch
    from e2e_networks import small
    from safetensors.torch import save_file

    network = small()
    state = dict(network.state_dict())
    other = {**state, "extra.weight": torch.zeros(1), "head.bias": torch.zeros(5)}
    del other["second.weight"]
    infinite = {**state, "second.bias": torch.full((32,), float("inf"))}
    path = folder / name
    whole: dict[str, Callable[[], object]] = {
        "pickled.pt": lambda: torch.save(network, path),
        "list.pt": lambda: torch.save([1, 2], path),
        "nested.pt": lambda: torch.save({"model": state, "epoch": 3}, path),
        "parallel.pt": lambda: torch.save({f"module.{key}": value for key, value in state.items()}, path),
        "wrong.safetensors": lambda: save_file(other, path),
        "infinite.safetensors": lambda: save_file(infinite, path),
        "cut.pt": lambda: torch.save(state, path),
        "cut.safetensors": lambda: save_file(state, path),
        "garbage.pt": lambda: path.write_bytes(b"no weights " * 50),
        "garbage.safetensors": lambda: path.write_bytes(b"no weights " * 50),
        "empty.pt": lambda: path.write_bytes(b""),
        "missing.pt": lambda: None,
    }
    whole[name]()
    if name.startswith("cut"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("missing.pt", 2, ["no weights file 'missing.pt'"]),
        ("pickled.pt", 2, ["pickled objects", "state_dict()"]),
        ("list.pt", 2, ["hold a list"]),
        ("nested.pt", 2, ["no tensors under model, epoch"]),
        ("parallel.pt", 2, ["missing: first.weight", "unexpected: module.first.weight", "network.module.state_dict()"]),
        (
            "wrong.safetensors",
            2,
            ["missing: second.weight", "unexpected: extra.weight", "of another shape: head.bias"],
        ),
        ("infinite.safetensors", 4, ["weight 'second.bias' holds NaN or infinite values"]),
        ("cut.pt", 2, ["'cut.pt' cannot be read"]),
        ("cut.safetensors", 2, ["'cut.safetensors' cannot be read"]),
        ("garbage.pt", 2, ["'garbage.pt' cannot be read"]),
        ("garbage.safetensors", 2, ["'garbage.safetensors' cannot be read"]),
        ("empty.pt", 2, ["'empty.pt' cannot be read"]),
    ],
)
def test_wrong_weights_are_refused(tmp_path: Path, name: str, code: int, words: list[str]) -> None:
    target_or_skip("cpu")
    save_weights(tmp_path, name)
    run = attempt(f"{NETWORKS}:small", tmp_path, "--weights", name)
    refused(run, code, *words, output=tmp_path / "out")


@pytest.mark.slow
def test_one_backend_that_cannot_express_the_network_leaves_the_others(tmp_path: Path) -> None:
    target_or_skip("arm64")
    target_or_skip("cpu")
    write_samples(tmp_path / "samples.npz", {"x": (20, 4)})
    targets = ("--target", "arm64,cpu", "--precision", "float32", "--evaluate", "samples.npz")
    folder = tmp_path / "out"
    run = edgeport(
        "build",
        f"{NETWORKS}:determinant",
        *targets,
        "--output",
        folder,
        "--json",
        store=tmp_path / "store",
        cwd=tmp_path,
    )
    assert run.code == 5, run.err
    assert "arm64: not built" in run.error
    assert "linalg_det" in run.error
    report = run.report()
    assert report["verdict"] == "fail"
    assert report["targets"]["arm64"] == {"artifact": None, "metrics": []}
    assert report["targets"]["cpu"]["artifact"] == "cpu/model.onnx"
    assert (folder / "cpu" / "model.onnx").is_file()
    assert not [name for name in files_of(folder) if name.startswith("arm64/")]
