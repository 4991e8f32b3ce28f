"""What a student is trained on: how far its outputs are from the teacher's, and from the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

SMALLEST_PROBABILITY = 1e-7  # float32's resolution near 1; keeps log(softmax) finite where a probability underflowed
SMALLEST_VARIANCE = 1e-12  # a teacher's output that is constant in a batch


def softened_divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 x KL(softmax(teacher / T) || softmax(student / T)), the mean over samples.

    Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2: gradients of the softened
    targets scale as 1 / T^2, hence the factor. Their cross-entropy and this divergence differ by the entropy of the
    teacher, which has no gradient; the divergence is 0 when both agree.

    Args:
        student: logits, (batch, classes), float.
        teacher: logits, (batch, classes), float; receives no gradient.
        temperature: T > 0, without unit.
    """
    log_student = functional.log_softmax(student.float() / temperature, dim=1)
    log_teacher = functional.log_softmax(teacher.detach().float() / temperature, dim=1)
    return functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def relative_squared_error(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared error over the variance of the teacher's output in this batch.

    The share of the teacher's variance that the student leaves unexplained (1 - R^2): without unit, 0 when both agree
    and 1 when the student only knows the mean. Outputs of different scale therefore weigh the same.

    Args:
        student: any shape, float.
        teacher: the same shape; receives no gradient.
    """
    teacher = teacher.detach().float()
    error = functional.mse_loss(student.float(), teacher)
    floor = 1e-6 * teacher.square().mean() + SMALLEST_VARIANCE
    return error / torch.maximum(teacher.var(correction=0), floor)


@dataclass(frozen=True, kw_only=True)
class ClassObjective:
    """Class scores: (1 - h) x softened divergence from the teacher + h x cross-entropy with the labels.

    The weighted average of Hinton, Vinyals, Dean 2015, section 2, who found a small weight of the labels to do best.

    Attributes:
        temperature: T of `softened_divergence`.
        hard_labels: h, 0..1; 1 asks no teacher. Batches without labels have the divergence alone.
        are_probabilities: the network ends in a softmax. Logits are then the logarithms of its outputs (the constant
            that a softmax loses does not matter to another softmax).
    """

    temperature: float
    hard_labels: float
    are_probabilities: bool = False

    def __call__(
        self, students: Sequence[torch.Tensor], teachers: Sequence[torch.Tensor], labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the loss of a batch, a scalar; one output each, labels (batch,) int64."""
        student = self._logits(students[0])
        hard = self.hard_labels if labels is not None else 0.0
        loss = torch.zeros(())
        if hard < 1:
            loss = (1 - hard) * softened_divergence(student, self._logits(teachers[0]), self.temperature)
        if labels is not None and hard:
            loss = loss + hard * functional.cross_entropy(student, labels)
        return loss

    def _logits(self, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.float()
        return scores.clamp_min(SMALLEST_PROBABILITY).log() if self.are_probabilities else scores


@dataclass(frozen=True, kw_only=True)
class ValueObjective:
    """Anything but class scores (several outputs, regression, reconstruction): mean relative squared error."""

    def __call__(
        self, students: Sequence[torch.Tensor], teachers: Sequence[torch.Tensor], labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the loss of a batch, a scalar: the mean over outputs; labels are not used."""
        pairs = zip(students, teachers, strict=True)
        return torch.stack([relative_squared_error(student, teacher) for student, teacher in pairs]).mean()


@dataclass(frozen=True, kw_only=True)
class FeatureObjective:
    """Another objective on the outputs, and attention maps that should be the teacher's.

    Zagoruyko, Komodakis 2017, "Paying More Attention to Attention" (arXiv:1612.03928), equation 2: the squared distance
    of normalised maps (`edgeport.training.features`), here the mean over maps, so that the weight does not depend on
    their number.

    Attributes:
        on_outputs: what is learned from the outputs.
        maps: how many attention maps follow the outputs.
        weight: of the maps' distance, > 0.
    """

    on_outputs: ClassObjective | ValueObjective
    maps: int
    weight: float

    def __call__(
        self, students: Sequence[torch.Tensor], teachers: Sequence[torch.Tensor], labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the loss of a batch, a scalar; the last `maps` tensors of each network are maps."""
        loss = self.on_outputs(students[: -self.maps], teachers[: -self.maps], labels)
        pairs = zip(students[-self.maps :], teachers[-self.maps :], strict=True)
        distances = [(student - teacher.detach()).square().sum(1).mean() for student, teacher in pairs]
        return loss + self.weight * torch.stack(distances).mean()


Objective = ClassObjective | ValueObjective | FeatureObjective
