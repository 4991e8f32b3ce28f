"""Who imports what: layers, light start-up, and a device agent that stands alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "litert_torch",
    "ai_edge_quantizer",
    "ai_edge_litert",
    "tensorflow",
    "jax",
    "sklearn",
    "scipy",
    "PIL",
}
LIGHT = (
    "edgeport",
    "edgeport.cli",
    "edgeport.plan",
    "edgeport.dataset",
    "edgeport.store",
    "edgeport.manifest",
    "edgeport.profile",
    "edgeport.types",
    "edgeport.errors",
    "edgeport.demo.data",
)
RUNTIMES = {"ai_edge_litert", "tflite_runtime", "openvino", "onnxruntime"}


def modules_after(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after it ran `code`."""
    script = f"import atexit, sys\natexit.register(lambda: print('\\n@', *sys.modules))\n{code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.rpartition("\n@")[2].split()}


def imported_modules(tree: ast.AST) -> set[str]:
    """Return the top-level names of all modules that code imports, also by `import_module`; relative ones are `.`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." if node.level else (node.module or "").partition(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {
                arg.value.partition(".")[0]
                for arg in node.args
                if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            }
    return names


def test_layers_hold(root: Path) -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    if not lint.exists():
        pytest.skip("import-linter is not installed beside this interpreter: pip install 'edgeport[test]'")
    done = subprocess.run([lint, "--no-logo", "--no-cache"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("module", LIGHT)
def test_import_is_light(module: str) -> None:
    loaded = modules_after(f"import {module}")
    assert "edgeport" in loaded
    assert HEAVY & loaded == set()


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"], ["targets"], ["devices"]])
def test_command_is_light(arguments: list[str]) -> None:
    loaded = modules_after(f"sys.argv = {['edgeport', *arguments]!r}\nfrom edgeport.cli import main\nsys.exit(main())")
    assert "edgeport" in loaded
    assert HEAVY & loaded == set()


def test_a_heavy_import_would_be_noticed() -> None:
    assert "PIL" in modules_after("import PIL.Image")


def test_device_agent_imports_only_numpy_and_runtimes(root: Path) -> None:
    tree = ast.parse((root / "edgeport" / "devices" / "agent.py").read_text(encoding="utf-8"))
    foreign = imported_modules(tree) - set(sys.stdlib_module_names) - {"__future__"}
    assert foreign == {"numpy", *RUNTIMES}
    # a runtime is imported where it is used: a device has only one of them
    at_start = set().union(
        *(imported_modules(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
    )
    assert at_start.isdisjoint(RUNTIMES)


def test_each_runtime_is_imported_by_a_function_of_its_own_in_the_agent(root: Path) -> None:
    tree = ast.parse((root / "edgeport" / "devices" / "agent.py").read_text(encoding="utf-8"))
    tflite = {"ai_edge_litert", "tflite_runtime"}  # one runtime under two names
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            used = imported_modules(node) & RUNTIMES
            assert len(used) <= 1 or used <= tflite, f"{node.name} imports {sorted(used)}"
