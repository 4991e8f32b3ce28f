"""Cut traced networks to the classes that `--classes` names: from there on that is the network that came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from edgeport.errors import StageError
from edgeport.graph.head import cut_head, find_head
from edgeport.stages.trace import Trace

if TYPE_CHECKING:
    import torch

    from edgeport.dataset import Classes
    from edgeport.graph.network import Network
    from edgeport.types import Model


def traced(
    network: Network, example_inputs: tuple[torch.Tensor, ...], classes: Classes | None
) -> tuple[Model, dict[str, object]]:
    """Trace a network, cut it to the chosen classes where there is a choice, and return what there is to say of both.

    Raises:
        ConfigError: as `Trace`, or the choice does not fit the network's number of classes.
        StageError: as `Trace`, or the class scores do not come from a layer that can be cut.
    """
    from edgeport.pruning.macs import count_parameters
    from edgeport.pruning.structure import CutHead, InputShape, Structure

    whole, figures = Trace()(network, example_inputs)
    if classes is None:
        return whole, figures
    head = find_head(whole.module, whole.example_inputs, flag="--classes")
    classes.check_count(head.classes)
    module = cut_head(whole.module, head, classes.kept)
    (output,) = whole.outputs
    model = whole.with_(module=module, outputs=(replace(output, shape=(len(classes.kept),)),))
    structure = Structure(
        inputs=tuple(InputShape(name=spec.name, shape=spec.shape, dtype=spec.dtype) for spec in model.inputs),
        head=CutHead(layer=head.layer, classes=head.classes, kept=classes.kept),
    )
    return model, figures | {
        "outputs": [[spec.name, list(spec.shape), spec.dtype] for spec in model.outputs],
        "parameters": count_parameters(module),
        "classes": {"of": head.classes, "kept": list(classes.kept), "names": list(classes.names)},
        "structure": msgspec.to_builtins(structure),
    }


def traced_teachers(
    networks: Sequence[Network],
    example_inputs: tuple[torch.Tensor, ...],
    classes: Classes | None,
    student: dict[str, object],
) -> tuple[Model, ...]:
    """Trace the networks that a student learns from and cut them as it was cut.

    Args:
        networks: the teachers.
        example_inputs: one real sample, a batch of one.
        classes: the choice; None: all classes.
        student: figures of the student's trace.

    Raises:
        ConfigError: as `traced`.
        StageError: as `traced`, or a teacher has another number of classes, so that an index means another class.
    """
    teachers = []
    for network in networks:
        model, figures = traced(network, example_inputs, classes)
        counts = [found["of"] for found in (student.get("classes"), figures.get("classes")) if isinstance(found, dict)]
        if len(set(counts)) > 1:
            raise StageError(
                f"--teacher {network.name} has {counts[1]} classes, the network {counts[0]}; --classes needs"
                " teachers of the same classes"
            )
        teachers.append(model)
    return tuple(teachers)
