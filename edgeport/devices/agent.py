#!/usr/bin/env python3
# ruff: noqa: B905  (boards may have Python 3.9, whose zip() has no `strict`)
"""Run, time and check a .tflite, .xml (OpenVINO) or .onnx file on this machine.

One file that needs numpy and the one runtime of the model's suffix, nothing else: copy it to a board and go.

  python agent.py bench  model.tflite model-float.tflite
  python agent.py run    model.tflite --inputs x.npy --outputs out.npz
  python agent.py verify model.tflite --inputs x.npy --expected out.npz
  python agent.py profile model.onnx

Inputs are .npy files of shape (N, ...) in PyTorch's layout (channels first), one file a network input; every
inference has batch one. A file `io.json` beside the model maps its tensors to the network's inputs and outputs:
  {"inputs": [{"name": "x", "tensor": "name in the file", "channels_last": true}],
   "outputs": [{"name": "y", "tensor": "name in the file"}]}
Integer inputs are quantized and integer outputs dequantized with the scale that the file holds. Results are JSON on
stdout. Exit codes: 0 done, 1 `verify` found too little agreement, 2 the call, a file or a package is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib
import json
import math
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

BLOCK = 10  # inferences of one file before the next file has its turn
WARMUP = 5  # inferences of each file that are not timed
CHUNK = 1 << 20
SETTLED = 16  # calls after which Python's interpreter has settled on how it runs the code around them (8 in 3.11)
FIRST_MARK, ARM, BEGIN, END = 70000, 0, 1, 2  # of `count`; instruction_counter.c knows them too
LACKS = "does not have"  # ends the message of a file that needs an operator which its runtime lacks
# How LiteRT and tflite-runtime say that they have no such operator, or only an older version of it.
ABSENT_OPERATOR = re.compile(
    r"find op for builtin opcode '(?P<name>\w+)' version '(?P<version>\d+)'"
    r"|unresolved custom op: (?P<custom>\w+(?:\.\w+)*)"
)


class AgentError(Exception):
    """Something that the caller can put right; its message is one line."""


# --- runtimes: one class each, all with inputs, outputs, version, failures and infer() ---------------------------


class Slot:
    """One input or output of a file.

    Attributes:
        names: every name that the file has for it.
        shape: with the batch dimension; -1 where the file leaves a dimension open.
        dtype: numpy's.
        scale: real = (integer - zero_point) * scale; 0 where the tensor is not quantized.
        zero_point: see `scale`.
    """

    def __init__(
        self, names: Sequence[str], shape: Sequence[Any], dtype: Any, scale: float = 0.0, zero_point: int = 0
    ) -> None:
        self.names = tuple(names)
        self.shape = tuple(int(d) if isinstance(d, (int, np.integer)) else -1 for d in shape)
        self.dtype = np.dtype(dtype)
        self.scale = scale
        self.zero_point = zero_point


class LiteRtSession:
    """A .tflite file in LiteRT, or in the older tflite-runtime."""

    failures: tuple[type[Exception], ...] = (ValueError, RuntimeError)

    def __init__(self, path: Path, threads: int) -> None:
        try:
            package = importlib.import_module("ai_edge_litert")
        except ImportError:
            package = importlib.import_module("tflite_runtime")
        self.runtime, self.version = package.__name__.replace("_", "-"), str(package.__version__)
        interpreter = importlib.import_module(package.__name__ + ".interpreter")
        try:
            self._interpreter = interpreter.Interpreter(model_path=str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            if not (absent := ABSENT_OPERATOR.search(str(error))):
                raise
            operator = f"{absent['name']} version {absent['version']}" if absent["name"] else absent["custom"]
            raise AgentError(f"{path} needs {operator}, which {self.runtime} {self.version} {LACKS}") from error
        signatures = self._interpreter.get_signature_list()
        named: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        if len(signatures) == 1:
            runner = self._interpreter.get_signature_runner(next(iter(signatures)))
            named = (runner.get_input_details(), runner.get_output_details())
        self._in = self._interpreter.get_input_details()
        self._out = self._interpreter.get_output_details()
        self.inputs = [self._slot(detail, named[0]) for detail in self._in]
        self.outputs = [self._slot(detail, named[1]) for detail in self._out]

    @staticmethod
    def _slot(detail: dict[str, Any], signature: dict[str, Any]) -> Slot:
        names = [name for name, other in signature.items() if other["index"] == detail["index"]]
        scale, zero_point = detail["quantization"]
        return Slot([*names, detail["name"]], detail["shape"], detail["dtype"], float(scale), int(zero_point))

    def infer(self, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs for one batch, both in the file's order and dtypes."""
        self.ready(arrays)()
        return [self._interpreter.get_tensor(detail["index"]) for detail in self._out]

    def ready(self, arrays: list[NDArray[Any]]) -> Callable[[], Any]:
        """Set the inputs; return what then computes and does nothing else."""
        for detail, array in zip(self._in, arrays):
            self._interpreter.set_tensor(detail["index"], array)
        invoke: Callable[[], Any] = self._interpreter.invoke
        return invoke

    def profile(self, arrays: list[NDArray[Any]], runs: int) -> list[dict[str, Any]]:
        """Return the file's operators in order and which of them XNNPACK takes; the interpreter tells no times.

        A delegate's node lists the tensors at its edges: what is computed between them, it computes.
        """
        if not hasattr(self._interpreter, "_get_ops_details"):  # tflite-runtime before 2.5
            return []
        nodes = self._interpreter._get_ops_details()
        names = {detail["index"]: detail["name"] for detail in self._interpreter.get_tensor_details()}
        delegates = [node for node in nodes if node["op_name"] == "DELEGATE"]
        makers = {int(out): node for node in nodes if node["op_name"] != "DELEGATE" for out in node["outputs"]}
        taken: set[int] = set()
        for delegate in delegates:
            edge = {int(index) for index in delegate["inputs"]}
            left = [int(index) for index in delegate["outputs"]]
            while left:
                maker = makers.get(left.pop())
                if maker is not None and maker["index"] not in taken:
                    taken.add(maker["index"])
                    left += [int(index) for index in maker["inputs"] if int(index) not in edge and index >= 0]
        return [
            {
                "name": names.get(int(node["outputs"][0]), "") if len(node["outputs"]) else "",
                "kind": node["op_name"],
                "kernel": "xnnpack" if node["index"] in taken else "builtin",
                "ms": None,
            }
            for node in nodes
            if node["op_name"] != "DELEGATE"
        ]


class OpenVinoSession:
    """An OpenVINO .xml (with its .bin) on the CPU plugin, float layers in float32."""

    failures: tuple[type[Exception], ...] = (RuntimeError,)

    def __init__(self, path: Path, threads: int) -> None:
        _check_ir(path)
        self._path = path
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # openvino then takes its own silent stub
        ov = importlib.import_module("openvino")
        self.runtime, self.version = "openvino", str(ov.get_version())
        self._options = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",  # else float layers run in bfloat16 where the CPU has it
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        compiled = ov.Core().compile_model(str(path), "CPU", self._options)
        self._request = compiled.create_infer_request()
        self.inputs = [self._slot(port) for port in compiled.inputs]
        self.outputs = [self._slot(port) for port in compiled.outputs]
        # Shared buffers: passing arrays to infer() costs 0.16 ms a call in OpenVINO 2026.4, this way 0.01 ms.
        self._buffers = [np.zeros([abs(d) for d in slot.shape], slot.dtype) for slot in self.inputs]
        self._tensor = ov.Tensor
        for index in range(len(self.inputs)):
            self._bind(index)

    def _bind(self, index: int) -> None:
        self._request.set_input_tensor(index, self._tensor(self._buffers[index], shared_memory=True))

    @staticmethod
    def _slot(port: Any) -> Slot:
        shape = [d.get_length() if d.is_static else -1 for d in port.partial_shape]
        return Slot(sorted(port.names) or [port.node.get_friendly_name()], shape, port.element_type.to_dtype())

    def infer(self, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs for one batch, both in the file's order and dtypes."""
        self.ready(arrays)()
        return [self._request.get_output_tensor(index).data.copy() for index in range(len(self.outputs))]

    def ready(self, arrays: list[NDArray[Any]]) -> Callable[[], Any]:
        """Set the inputs; return what then computes and does nothing else."""
        for index, array in enumerate(arrays):
            if array.shape != self._buffers[index].shape:  # an open dimension took another size
                self._buffers[index] = np.array(array)
                self._bind(index)
            np.copyto(self._buffers[index], array)
        return functools.partial(self._request.infer, share_outputs=True)

    def profile(self, arrays: list[NDArray[Any]], runs: int) -> list[dict[str, Any]]:
        """Return the compiled model's operators in order, each with its kernel and the median of its times."""
        ov = importlib.import_module("openvino")
        compiled = ov.Core().compile_model(str(self._path), "CPU", {**self._options, "PERF_COUNT": True})
        request = compiled.create_infer_request()
        rows: dict[str, dict[str, Any]] = {}
        times: dict[str, list[float]] = {}
        for turn in range(WARMUP + runs):
            request.infer(dict(enumerate(arrays)))
            for info in request.profiling_info if turn >= WARMUP else ():
                if str(info.status).endswith("EXECUTED"):
                    row = {"name": info.node_name, "kind": info.node_type, "kernel": info.exec_type}
                    rows.setdefault(info.node_name, row)
                    times.setdefault(info.node_name, []).append(info.real_time.total_seconds() * 1e3)
        return [{**row, "ms": float(np.median(times[name]))} for name, row in rows.items()]


def _check_ir(path: Path) -> None:
    """Raise AgentError unless an OpenVINO file is whole: the runtime's own error is a page of foreign log lines."""
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(max(0, path.stat().st_size - 256))
        is_whole = b"<net" in head and b"</net>" in file.read()
    if not is_whole:
        raise AgentError(f"{path} is not a whole OpenVINO file")
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise AgentError(f"{path} has no weights file {weights.name} beside it")


class OnnxRuntimeSession:
    """An .onnx file in ONNX Runtime on the CPU."""

    failures: tuple[type[Exception], ...] = (ValueError, RuntimeError)
    dtypes: Mapping[str, str] = {
        "tensor(float)": "float32",
        "tensor(float16)": "float16",
        "tensor(double)": "float64",
        **{f"tensor({name})": name for name in ("int8", "uint8", "int16", "uint16", "int32", "int64", "bool")},
    }

    def __init__(self, path: Path, threads: int) -> None:
        # Version 1.32 writes a device id and uploads events at import, unless this is set before (its docs/Privacy.md).
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        ort = importlib.import_module("onnxruntime")
        state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        self.runtime, self.version = "onnxruntime", str(ort.__version__)
        # Its errors derive from Exception itself, one class a status code.
        kinds = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
        self.failures = (*self.failures, *kinds)
        ort.disable_telemetry_events()  # Windows heeds only this
        ort.set_default_logger_severity(3)
        self._path, self._threads = path, threads
        try:
            self._session = self._open()
        except self.failures as error:
            raise AgentError(f"{path} does not load in onnxruntime: {one_line(error)}") from error
        self.inputs = [self._slot(value) for value in self._session.get_inputs()]
        self.outputs = [self._slot(value) for value in self._session.get_outputs()]
        self._names = [slot.names[0] for slot in self.inputs]

    def _open(self, profile: str = "") -> Any:
        ort = importlib.import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        options.log_severity_level = 3
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        return ort.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])

    def profile(self, arrays: list[NDArray[Any]], runs: int) -> list[dict[str, Any]]:
        """Return the optimized graph's operators in order, each with the median of its times."""
        with tempfile.TemporaryDirectory(prefix="agent-") as folder:
            session = self._open(str(Path(folder) / "profile"))
            for _ in range(WARMUP + runs):
                session.run(None, dict(zip(self._names, arrays)))
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        kinds: dict[str, str] = {}
        times: dict[str, list[float]] = {}
        for event in events:
            name, _, what = str(event.get("name", "")).rpartition("_kernel_")
            if event.get("cat") == "Node" and what == "time":
                kinds[name] = str(event["args"]["op_name"])
                times.setdefault(name, []).append(event["dur"] * 1e-3)
        return [
            {"name": name, "kind": kinds[name], "kernel": "", "ms": float(np.median(found[WARMUP:]))}
            for name, found in times.items()
        ]

    def _slot(self, value: Any) -> Slot:
        if value.type not in self.dtypes:
            raise AgentError(f"'{value.name}' is a {value.type}, which numpy has no type for")
        return Slot([value.name], value.shape, self.dtypes[value.type])

    def infer(self, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs for one batch, both in the file's order and dtypes."""
        return [np.asarray(array) for array in self.ready(arrays)()]

    def ready(self, arrays: list[NDArray[Any]]) -> Callable[[], Any]:
        """Return what computes with these inputs and does nothing else but wrap them and its outputs."""
        return functools.partial(self._session.run, None, dict(zip(self._names, arrays)))


RUNTIMES: dict[str, tuple[Any, str]] = {
    ".tflite": (LiteRtSession, "ai-edge-litert"),
    ".xml": (OpenVinoSession, "openvino"),
    ".onnx": (OnnxRuntimeSession, "onnxruntime"),
}


def one_line(error: BaseException) -> str:
    """Return the telling line of a runtime's message: the last one that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


# --- a network: a session plus the map between PyTorch's inputs and the file's tensors ----------------------------


class Network:
    """A loaded file that takes and gives arrays in PyTorch's order, layout and float32.

    Attributes:
        path: the file.
        session: its runtime.
        times: seconds of each timed inference: setting inputs, computing, fetching outputs; no layout change or
            quantization.
    """

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.path = path = Path(name)
        if path.suffix not in RUNTIMES:
            raise AgentError(f"{path}: unknown suffix '{path.suffix}'; known: {', '.join(RUNTIMES)}")
        if not path.is_file():
            raise AgentError(f"no model file {path}")
        kind, package = RUNTIMES[path.suffix]
        try:
            self.session = kind(path, args.threads)
        except ImportError as error:
            raise AgentError(
                f"{path.suffix} files need a package: pip install {package} ({one_line(error)})"
            ) from error
        except SystemError as error:  # tflite-runtime 2.14 beside numpy 2 imports, then fails like this
            raise AgentError(f"{package} fails beside numpy {np.__version__}: pip install 'numpy<2'") from error
        except (ValueError, RuntimeError) as error:
            raise AgentError(f"{path} does not load in {package}: {one_line(error)}") from error
        self.times: list[float] = []
        io = read_io(Path(args.io) if args.io else path.with_name("io.json"), required=bool(args.io))
        self.inputs = self._order(self.session.inputs, io.get("inputs"), "input")
        self.outputs = self._order(self.session.outputs, io.get("outputs"), "output")
        if args.channels_last is not None:
            for index in args.channels_last:
                if index >= len(self.inputs):
                    raise AgentError(f"--channels-last {index}: {path} has {len(self.inputs)} inputs, counted from 0")
            self.inputs = [(place, index in args.channels_last) for index, (place, _) in enumerate(self.inputs)]

    def _order(self, slots: list[Slot], entries: list[dict[str, Any]] | None, what: str) -> list[tuple[int, bool]]:
        """Return for each input (output) of the network its place in the file and whether it is channels last."""
        if entries is None:
            return [(index, False) for index in range(len(slots))]
        places = {name: index for index, slot in enumerate(slots) for name in slot.names}
        for entry in entries:
            if entry["tensor"] not in places:
                raise AgentError(
                    f"io.json names {what} tensor '{entry['tensor']}', which {self.path} does not have; it has: "
                    + ", ".join(sorted(places))
                )
        return [(places[entry["tensor"]], bool(entry.get("channels_last", False))) for entry in entries]

    def feed(self, sample: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return a sample (an array an input, no batch dimension, PyTorch's layout) as the file takes it."""
        if len(sample) != len(self.inputs):
            raise AgentError(f"{self.path} takes {len(self.inputs)} inputs, {len(sample)} given")
        fed: list[Any] = [None] * len(self.session.inputs)
        for index, (array, (place, is_channels_last)) in enumerate(zip(sample, self.inputs)):
            slot = self.session.inputs[place]
            laid = np.moveaxis(array, 0, -1) if is_channels_last and array.ndim > 1 else array
            laid = np.ascontiguousarray(laid)[None]
            if len(laid.shape) != len(slot.shape) or any(b not in (-1, a) for a, b in zip(laid.shape, slot.shape)):
                raise AgentError(
                    f"input {index} '{slot.names[0]}' is {laid.shape} with batch one, {self.path} takes {slot.shape}; "
                    f"where only the layout differs: --channels-last {index}"
                )
            fed[place] = encode(laid, slot, index)
        return fed

    def timed(self, fed: list[NDArray[Any]], keep: bool = True) -> list[NDArray[Any]]:
        """Return the outputs in the file's order; note how long the inference took when `keep`."""
        start = time.perf_counter()
        try:
            raw: list[NDArray[Any]] = self.session.infer(fed)
        except self.session.failures as error:
            raise AgentError(f"{self.path} failed in {self.session.runtime}: {one_line(error)}") from error
        if keep:
            self.times.append(time.perf_counter() - start)
        return raw

    def decode(self, raw: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return a sample's outputs in PyTorch's order and layout, without the batch dimension, float32."""
        outputs = []
        for place, is_channels_last in self.outputs:
            slot, array = self.session.outputs[place], raw[place]
            array = array[0] if array.ndim and array.shape[0] == 1 else array
            if slot.scale:
                array = (array.astype(np.float32) - slot.zero_point) * np.float32(slot.scale)
            elif array.dtype.kind == "f":
                array = array.astype(np.float32)
            outputs.append(np.moveaxis(array, -1, 0) if is_channels_last and array.ndim > 1 else array)
        return outputs

    def random_inputs(self, seed: int) -> list[NDArray[Any]]:
        """Return seeded random arrays of the file's own shapes (open dimensions: 1) and dtypes."""
        random = np.random.default_rng(seed)
        arrays: list[NDArray[Any]] = []
        for slot in self.session.inputs:
            shape = [abs(size) for size in slot.shape]
            if slot.dtype.kind == "f":
                arrays.append(random.standard_normal(shape).astype(slot.dtype))
            elif slot.dtype.itemsize == 1 and slot.dtype.kind in "iu":
                arrays.append(random.integers(np.iinfo(slot.dtype).min, 127, shape).astype(slot.dtype))
            else:
                arrays.append(np.zeros(shape, slot.dtype))  # token ids and the like: 0 is always allowed
        return arrays

    def timing(self) -> dict[str, Any]:
        """Return the timed inferences' figures in milliseconds."""
        if not self.times:
            return {"model": str(self.path), "samples": 0, "p50_ms": None, "p90_ms": None, "min_ms": None}
        p50, p90 = np.quantile(self.times, [0.5, 0.9])
        return {
            "model": str(self.path),
            "samples": len(self.times),
            "p50_ms": float(p50) * 1e3,
            "p90_ms": float(p90) * 1e3,
            "min_ms": min(self.times) * 1e3,
        }


def encode(array: NDArray[Any], slot: Slot, index: int) -> NDArray[Any]:
    """Return `array` in the dtype of `slot`: quantized, or cast where that loses nothing that matters."""
    if array.dtype == slot.dtype:
        return array
    if array.dtype.kind == "f" and slot.scale:
        if not np.isfinite(array).all():
            raise AgentError(f"input {index} '{slot.names[0]}' holds a value that is not finite")
        info = np.iinfo(slot.dtype)
        steps: NDArray[Any] = np.rint(array / slot.scale) + slot.zero_point
        return steps.clip(info.min, info.max).astype(slot.dtype)
    if array.dtype.kind == slot.dtype.kind == "f":
        return array.astype(slot.dtype)
    if array.dtype.kind in "iu" and slot.dtype.kind in "iu" and (array.astype(slot.dtype) == array).all():
        return array.astype(slot.dtype)
    raise AgentError(f"input {index} '{slot.names[0]}' is {array.dtype}, the file takes {slot.dtype}")


def read_io(path: Path, required: bool) -> dict[str, Any]:
    """Return the content of an io.json, or nothing where there is none and none is required."""
    if not required and not path.is_file():
        return {}
    try:
        io = json.loads(path.read_text(encoding="utf-8"))
        for entry in [*io.get("inputs", []), *io.get("outputs", [])]:
            entry["tensor"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AgentError(f"{path} is not a map of inputs and outputs: {one_line(error)}") from error
    return dict(io)


# --- samples in, results out, one row at a time ---------------------------------------------------------------


class Rows:
    """The rows of a .npy file, read one at a time into the same buffer, so that the file never lies in memory.

    Attributes:
        path: the file.
        count: how many rows.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._file = self.path.open("rb")
        try:
            version = np.lib.format.read_magic(self._file)
            read = np.lib.format.read_array_header_2_0 if version == (2, 0) else np.lib.format.read_array_header_1_0
            shape, is_fortran, dtype = read(self._file)
        except ValueError as error:
            raise AgentError(f"{path} is not a .npy file: {error}") from error
        if dtype.kind not in "fiub" or is_fortran or not shape or not shape[0]:
            order = " in Fortran order" if is_fortran else ""
            raise AgentError(f"{path} holds {dtype} {shape}{order}; wanted numbers (N, ...) in C order, N > 0")
        self.count = int(shape[0])
        self._start = self._file.tell()
        self._row = np.empty(shape[1:], dtype)
        size = self.path.stat().st_size
        if size < self._start + self.count * self._row.nbytes:
            raise AgentError(f"{path} is cut short: {size} bytes, its header promises {self.count} rows of {shape[1:]}")

    def row(self, index: int) -> NDArray[Any]:
        """Return row `index`; the array is overwritten by the next call."""
        self._file.seek(self._start + index * self._row.nbytes)
        got = self._file.readinto(self._row.reshape(-1).view(np.uint8).data)
        if got != self._row.nbytes:
            raise AgentError(f"{self.path} is cut short at row {index}")
        return self._row


class Samples:
    """The samples of all inputs together."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._rows = [Rows(path) for path in paths]
        counts = {rows.count for rows in self._rows}
        if len(counts) != 1:
            found = ", ".join(f"{rows.path} has {rows.count}" for rows in self._rows)
            raise AgentError(f"the input files differ in length: {found}")
        self.count = counts.pop()

    def __getitem__(self, index: int) -> list[NDArray[Any]]:
        return [rows.row(index % self.count) for rows in self._rows]


class Results:
    """Writes out0, out1, ... of shape (N, ...) into an .npz, row by row through files in a temporary folder."""

    def __init__(self, path: str, count: int) -> None:
        self._path = Path(path)
        self._count = count
        self._folder = Path(tempfile.mkdtemp(prefix=".agent-", dir=self._path.absolute().parent))
        self._files: list[IO[bytes]] = []
        self._shapes: list[tuple[int, ...]] = []

    def add(self, outputs: list[NDArray[Any]]) -> None:
        """Write one sample's outputs."""
        if not self._files:
            for index, output in enumerate(outputs):
                file: IO[bytes] = (self._folder / f"out{index}.npy").open("wb")
                self._files.append(file)
                descr = np.lib.format.dtype_to_descr(output.dtype)
                header = {"descr": descr, "fortran_order": False, "shape": (self._count, *output.shape)}
                np.lib.format.write_array_header_1_0(file, header)
                self._shapes.append(output.shape)
        for file, output, shape in zip(self._files, outputs, self._shapes):
            if output.shape != shape:
                raise AgentError(f"an output changes its shape from {shape} to {output.shape} between samples")
            file.write(output.tobytes())

    def finish(self) -> None:
        """Put the arrays together under their final name."""
        whole = self._folder / "whole.npz"
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
            for file in self._files:
                file.close()
                archive.write(file.name, Path(file.name).name)
        whole.replace(self._path)

    def clear(self) -> None:
        """Remove what is left over; a full disk must not hide the first error."""
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


# --- figures -------------------------------------------------------------------------------------------------


def peak_rss_bytes() -> int | None:
    """Return the peak resident memory of this process so far; None where the system does not tell."""
    try:
        with Path("/proc/self/status").open(encoding="ascii") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def class_scores_index(shapes: Sequence[tuple[int, ...]]) -> int | None:
    """Return the index of the first output of shape (N, K), K >= 2: taken for class scores. None: there is none."""
    return next((index for index, shape in enumerate(shapes) if len(shape) == 2 and shape[1] >= 2), None)


def agreement_percent(scores: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the percent of rows whose largest value is at the same place; a row that is not finite never agrees.

    `scores`, `expected`: (N, K). Of equal largest values the first counts.
    """
    same = scores.argmax(axis=-1) == expected.argmax(axis=-1)
    finite = np.isfinite(scores).all(axis=-1) & np.isfinite(expected).all(axis=-1)
    return float(np.mean(same & finite) * 100.0)


def cosines(outputs: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine of each sample's flattened output with the expected one, (N,).

    Two zero vectors are equal (1); a zero vector and another have nothing in common (0). Not finite: NaN.
    """
    found = np.empty(len(outputs))
    for index, (row, other) in enumerate(zip(outputs, expected)):  # row by row: float64 copies stay small
        a, b = row.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            found[index] = np.nan
        elif not (a.any() and b.any()):
            found[index] = float(a.any() == b.any())
        else:
            a, b = a / np.abs(a).max(), b / np.abs(b).max()  # so that no square overflows or vanishes
            found[index] = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
    return found


def environment(network: Network, args: argparse.Namespace) -> dict[str, Any]:
    """Return what every result states: runtime, machine, threads."""
    return {
        "runtime": network.session.runtime,
        "runtime_version": network.session.version,
        "machine": platform.machine(),
        "threads": args.threads,
    }


# --- commands ------------------------------------------------------------------------------------------------


def turns(networks: list[Network], index: int) -> Iterator[tuple[int, Network]]:
    """Yield the networks in the order of turn `index`: forwards, then backwards, so that none is always first."""
    order = list(enumerate(networks))
    yield from order if index % 2 == 0 else reversed(order)


def run(args: argparse.Namespace) -> int:
    """Run each model over its samples, ten at a time in turn, and write its outputs."""
    start = time.perf_counter()
    if len(args.outputs) != len(args.models):
        raise AgentError(f"{len(args.models)} models need as many --outputs, {len(args.outputs)} given")
    samples = Samples(args.inputs)
    wanted = args.samples or [samples.count]
    counts = [min(samples.count, n) for n in (wanted * len(args.models) if len(wanted) == 1 else wanted)]
    if len(counts) != len(args.models):
        raise AgentError(f"--samples takes one number, or one a model: {len(args.models)}")
    before = peak_rss_bytes()
    networks: list[Network] = []
    alone = None
    for path in args.models:
        network = Network(path, args)
        networks.append(network)
        for index in range(args.warmup):
            network.timed(network.feed(samples[index]), keep=False)
        alone = peak_rss_bytes() if len(networks) == 1 else alone  # before another file is loaded beside it
    results: list[Results] = []
    try:
        results.extend(Results(path, count) for path, count in zip(args.outputs, counts))
        for turn, first in enumerate(range(0, max(counts), BLOCK)):
            for place, network in turns(networks, turn):
                for index in range(first, min(first + BLOCK, counts[place])):
                    raw = network.timed(network.feed(samples[index]), keep=index < min(counts))
                    results[place].add(network.decode(raw))
        for result in results:
            result.finish()
    finally:
        for result in results:
            result.clear()
    report = {
        **environment(networks[0], args),
        "samples": counts[0],
        "peak_rss_bytes": alone if len(networks) > 1 else peak_rss_bytes(),
        "rss_before_bytes": before,
        "seconds": time.perf_counter() - start,
        "models": [network.timing() for network in networks],
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0


def bench(args: argparse.Namespace) -> int:
    """Time models in turn: `inner` inferences each, in an order that alternates, for `rounds` rounds or `seconds`."""
    samples = Samples(args.inputs) if args.inputs else None
    networks = [Network(path, args) for path in args.models]
    random = [[n.random_inputs(args.seed + i) for i in range(0 if samples else 4)] for n in networks]

    def fed(place: int, index: int) -> list[NDArray[Any]]:
        return networks[place].feed(samples[index]) if samples else random[place][index % 4]

    for place, network in enumerate(networks):
        for index in range(max(1, args.warmup)):
            network.timed(fed(place, index))
    round_seconds = sum(float(np.median(network.times)) for network in networks)
    inner = args.inner or max(1, min(BLOCK, int(args.seconds / (5 * round_seconds))))  # at least five rounds in time
    for network in networks:
        network.times.clear()
    deadline = time.perf_counter() + args.seconds
    rounds = 0
    while rounds == 0 or (rounds != args.rounds and time.perf_counter() < deadline):
        for place, network in turns(networks, rounds):
            for index in range(inner):
                network.timed(fed(place, rounds * inner + index))
        rounds += 1
    first = float(np.median(networks[0].times))
    report = {
        **environment(networks[0], args),
        "rounds": rounds,
        "inner": inner,
        "models": [{**n.timing(), "ratio_to_first": float(np.median(n.times)) / first} for n in networks],
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0


def profile(args: argparse.Namespace) -> int:
    """List the operators that the runtime runs: kernel, and median time where the runtime tells."""
    samples = Samples(args.inputs) if args.inputs else None
    networks = [Network(path, args) for path in args.models]
    found = []
    for network in networks:
        fed = network.feed(samples[0]) if samples else network.random_inputs(0)
        try:
            found.append({"model": str(network.path), "operators": network.session.profile(fed, args.runs)})
        except network.session.failures as error:
            raise AgentError(f"{network.path} failed in {network.session.runtime}: {one_line(error)}") from error
    sys.stdout.write(json.dumps({**environment(networks[0], args), "models": found}, indent=1) + "\n")
    return 0


def mark(kind: int) -> None:
    """Tell an instruction counter around this process: the descriptor cannot exist, its number is the message."""
    os.isatty(FIRST_MARK + kind)


def nothing() -> None:
    """Stand in for an inference, to count what calls and marks cost."""


def regions(calls: Sequence[Callable[[], Any]], repeats: int) -> None:
    """Run all calls in turn, each in a region of its own."""
    for _ in range(repeats):
        for call in calls:
            mark(BEGIN)
            call()
            mark(END)


def count(args: argparse.Namespace) -> int:
    """Mark a region for each inference, and one for a call that does nothing, all in turn, for an emulator to count.

    A region holds the runtime's own call alone; inputs are set before. Some inferences come before those that count, so
    that memory is taken, weights are packed and lazily bound symbols are found.
    """
    samples = Samples(args.inputs) if args.inputs else None
    networks = [Network(path, args) for path in args.models]
    calls: list[Callable[[], Any]] = [nothing]
    try:
        for network in networks:
            fed = network.feed(samples[0]) if samples else network.random_inputs(0)
            calls.append(network.session.ready([np.array(array) for array in fed]))
        gc.collect()
        gc.disable()
        regions(calls, -(-SETTLED // len(networks)))  # not counted, for want of ARM
        mark(ARM)
        regions(calls, args.repeats)
    except networks[0].session.failures as error:
        names = ", ".join(str(network.path) for network in networks)
        raise AgentError(f"{names} failed in {networks[0].session.runtime}: {one_line(error)}") from error
    report = {**environment(networks[0], args), "repeats": args.repeats, "models": [str(n.path) for n in networks]}
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0


def verify(args: argparse.Namespace) -> int:
    """Compare the model's outputs with expected ones (out0, out1, ... of an .npz, as `run` writes them)."""
    samples = Samples(args.inputs)
    try:
        with np.load(args.expected, allow_pickle=False) as archive:
            expected = [archive[f"out{index}"] for index in range(len(archive.files))]
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise AgentError(f"{args.expected} does not hold out0, out1, ...: {one_line(error)}") from error
    network = Network(args.model, args)
    rows = [network.decode(network.timed(network.feed(samples[index]))) for index in range(samples.count)]
    outputs = [np.stack(column) for column in zip(*rows)]
    if [array.shape for array in outputs] != [array.shape for array in expected]:
        raise AgentError(
            f"{args.expected} holds {[a.shape for a in expected]}, {args.model} gives {[a.shape for a in outputs]}"
        )
    scores = class_scores_index([array.shape for array in outputs])
    agreement = None if scores is None else agreement_percent(outputs[scores], expected[scores])
    cosine = min(float(np.min(cosines(ours, theirs))) for ours, theirs in zip(outputs, expected))
    is_good = cosine >= args.min_cosine and (agreement is None or agreement >= args.min_agreement)
    difference = max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(outputs, expected))
    report = {
        **environment(network, args),
        "samples": samples.count,
        "agreement": agreement,
        "max_abs_difference": difference if math.isfinite(difference) else None,
        "cosine_min": cosine if math.isfinite(cosine) else None,
        "passed": is_good,
        "models": [network.timing()],
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0 if is_good else 1


# --- command line --------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _indices(text: str) -> list[int]:
    if not text:
        return []
    values = [int(part) for part in text.split(",")]
    if min(values) < 0:
        raise argparse.ArgumentTypeError(f"{text}: inputs are counted from 0")
    return values


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    shared = _Parser(add_help=False)
    shared.add_argument("--threads", type=_positive, default=1, metavar="N", help="threads of the runtime (default 1)")
    shared.add_argument("--io", metavar="FILE", help="map of inputs and outputs (default: io.json beside the model)")
    shared.add_argument(
        "--channels-last", type=_indices, metavar="0,2", help="inputs that this file takes channels last (over io.json)"
    )
    top = _Parser(prog="agent.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")
    one = commands.add_parser("run", parents=[shared], help="write a model's outputs; state time and peak memory")
    one.add_argument("models", nargs="+", metavar="MODEL", help="peak memory is that of the first one alone")
    one.add_argument("--inputs", nargs="+", required=True, metavar="NPY", help="one file a network input")
    one.add_argument("--outputs", nargs="+", required=True, metavar="NPZ", help="one file a model")
    one.add_argument("--samples", nargs="+", type=_positive, metavar="N", help="only the first N; one number a model")
    one.add_argument("--warmup", type=int, default=WARMUP, metavar="W", help=f"untimed inferences a model ({WARMUP})")
    one.set_defaults(call=run)
    two = commands.add_parser("bench", parents=[shared], help="time models side by side in turn")
    two.add_argument("models", nargs="+", metavar="MODEL")
    two.add_argument("--inputs", nargs="+", metavar="NPY", help="one file a network input (default: random numbers)")
    two.add_argument("--rounds", type=_positive, metavar="R", help="rounds at most (default: as many as fit in S)")
    two.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="stop after the round in which S seconds end"
    )
    two.add_argument(
        "--inner", type=int, default=0, metavar="I", help="inferences a model a round (default: 10, fewer if slow)"
    )
    two.add_argument("--warmup", type=int, default=WARMUP, metavar="W", help=f"untimed inferences a model ({WARMUP})")
    two.add_argument("--seed", type=int, default=0, metavar="N", help="seed of random inputs")
    two.set_defaults(call=bench)
    three = commands.add_parser("verify", parents=[shared], help="compare a model's outputs with expected ones")
    three.add_argument("model", metavar="MODEL")
    three.add_argument("--inputs", nargs="+", required=True, metavar="NPY", help="one file a network input")
    three.add_argument("--expected", required=True, metavar="NPZ", help="what `run` wrote elsewhere")
    three.add_argument(
        "--min-agreement", type=float, default=95.0, metavar="P", help="percent of samples with the same top-1 (95)"
    )
    three.add_argument("--min-cosine", type=float, default=0.9, metavar="C", help="lowest cosine of any sample (0.9)")
    three.set_defaults(call=verify)
    four = commands.add_parser(
        "profile", parents=[shared], help="list what the runtime runs, with times where it tells"
    )
    four.add_argument("models", nargs="+", metavar="MODEL")
    four.add_argument("--inputs", nargs="+", metavar="NPY", help="one file a network input (default: random numbers)")
    four.add_argument("--runs", type=_positive, default=50, metavar="N", help="inferences a model (default 50)")
    four.set_defaults(call=profile)
    five = commands.add_parser("count", parents=[shared], help="mark inferences for an emulator that counts")
    five.add_argument("models", nargs="+", metavar="MODEL")
    five.add_argument("--inputs", nargs="+", metavar="NPY", help="one file a network input (default: random numbers)")
    five.add_argument("--repeats", type=_positive, default=2, metavar="N", help="regions a model (default 2)")
    five.set_defaults(call=count)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    args = parser().parse_args(arguments)
    try:
        return int(args.call(args))
    except (AgentError, OSError) as error:
        sys.stderr.write(f"agent.py: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
