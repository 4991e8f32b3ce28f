"""What float PyTorch answers on the evaluation samples: the yardstick of every artifact."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeport.graph.canonical import canonicalize
from edgeport.graph.execute import Executor, batch_size
from edgeport.store import Store, digest
from edgeport.validation.accuracy import top1_percent
from edgeport.validation.parity import class_scores
from edgeport.validation.validate import Reference

if TYPE_CHECKING:
    from edgeport.dataset import Dataset
    from edgeport.stages.chain import Chain
    from edgeport.stages.context import Progress
    from edgeport.types import Model


def reference(store: Store, chain: Chain, samples: Dataset, progress: Progress) -> Reference:
    """Return the float outputs of the network that is lowered, and the top-1 of the network that came in.

    Kept in the store: a rebuild reads it.
    """
    key = reference_key(chain, samples)
    folder = store.get(key)
    if folder is None:
        outputs = float_outputs(chain.float_model(), samples, progress, "evaluate float")
        original = outputs
        if chain.is_changed:
            original = float_outputs(chain.original(), samples, progress, "evaluate the network that came in")
        labels, scores = samples.labels(), class_scores(original)
        top1 = None if labels is None or scores is None else top1_percent(scores, labels)
        with store.put(key) as fresh:
            named = {f"out{index}": output for index, output in enumerate(outputs)}
            if top1 is not None:
                named["top1_float"] = np.array(top1)
            if scores is not None and chain.is_changed:
                named["answers_original"] = scores.argmax(1)
            np.savez(fresh / "reference.npz", **named)  # type: ignore[arg-type]  # numpy's stub takes no dict of arrays
        folder = store.get(key)
        if folder is None:
            raise FileNotFoundError(f"store entry {key} vanished while a build used it")
    with np.load(folder / "reference.npz", allow_pickle=False) as data:
        count = sum(name.startswith("out") for name in data.files)
        return Reference(
            outputs=tuple(data[f"out{index}"] for index in range(count)),
            labels=samples.labels(),
            top1_float=float(data["top1_float"]) if "top1_float" in data.files else None,
            answers={"original": data["answers_original"]} if "answers_original" in data.files else {},
        )


def reference_key(chain: Chain, samples: Dataset) -> str:
    """Return the store key of the reference: both networks and the samples."""
    return digest("reference", chain.float_key, chain.trace_key, samples.digest)


def float_outputs(model: Model, samples: Dataset, progress: Progress, label: str) -> tuple[np.ndarray, ...]:
    """Return the float network's outputs, each `(samples, ...)` float32."""
    import torch

    executor = Executor(canonicalize(model.module, model.example_inputs), model.example_inputs)
    size = batch_size([spec.shape for spec in model.inputs]) if model.has_dynamic_batch else 1
    parts: list[list[np.ndarray]] = []
    with progress.task(label, len(samples)) as task:
        for batch in samples.batches(size):
            outputs = executor.run([torch.from_numpy(array) for array in batch.inputs])
            parts.append([output.float().contiguous().numpy() for output in outputs])
            task.advance(len(batch.inputs[0]))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def write_inputs(samples: Dataset, folder: Path) -> tuple[Path, ...]:
    """Stream all samples to `in0.npy`, `in1.npy`, ... in `folder`, `(samples, ...)` as PyTorch takes them."""
    paths = tuple(folder / f"in{index}.npy" for index in range(len(samples.shapes)))
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for file, shape, dtype in zip(files, samples.shapes, samples.dtypes, strict=True):
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (len(samples), *shape)}
            np.lib.format.write_array_header_1_0(file, header)
        for batch in samples.batches(batch_size(samples.shapes)):
            for file, array in zip(files, batch.inputs, strict=True):
                file.write(np.ascontiguousarray(array).data)
    return paths
