"""A build, in order: data, trace, prune, distill, calibrate, lower, validate, pack."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeport import environment
from edgeport.backends import backend
from edgeport.doctor import require
from edgeport.lowering import Lowering, latency_share
from edgeport.manifest import package_versions
from edgeport.report.report import Report
from edgeport.report.steps_plot import plot
from edgeport.report.table import ablation_rows
from edgeport.stages.chain import Chain
from edgeport.stages.context import SILENT, Progress
from edgeport.stages.data import open_data, random_data, remember_place
from edgeport.stages.examine import examined
from edgeport.stages.pack import check_output, pack
from edgeport.stages.tune_loss import scores_output
from edgeport.store import Store, default_root, digest
from edgeport.validating import Validating

if TYPE_CHECKING:
    from edgeport.plan import Plan
    from edgeport.types import Model


def build(plan: Plan, *, progress: Progress = SILENT, store: Store | None = None) -> Report:
    """Run a plan and write its output folder.

    Args:
        plan: what to do.
        progress: where to show progress.
        store: where finished steps lie; default: the user's cache folder.

    Raises:
        EdgeportError: whatever a user can cause; see `edgeport.errors`.
    """
    environment.prepare(plan.threads)
    for name in dict.fromkeys(target.backend for target in plan.targets):
        require(name)
    check_output(Path(plan.output))
    store = store or Store(default_root())
    store.prepare()
    opened = open_data(plan, store) if plan.has_data else None

    import torch

    from edgeport.graph.network import load_network

    threads = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        network = load_network(plan.model, plan.weights, seed=plan.seed)
        data = opened or random_data(plan, network)
        for note in data.notes:
            progress.log(note)
        teachers = [load_network(teacher, None, seed=plan.seed) for teacher in plan.teachers]
        runtimes = _runtimes(plan)

        def latency(model: Model) -> float:
            return latency_share(store, plan.targets, model, chain.original, key=chain.trace_key)

        chain = Chain(plan, network, data, store, progress, teachers=teachers, latency=latency, runtimes=runtimes)
        records = examined(chain, chain.records())
        scores = scores_output(records[0], plan.max_drop)
        built, failures, lowering = Lowering(plan, chain, store, progress, scores).run()
        results, validating = Validating(plan, chain, data, store, progress).run(built)
        report = Report(
            model=network.name,
            stages=(*records, lowering, validating),
            targets=results,
            failures=failures,
        )
        facts = {
            "model": {"name": network.name, "fingerprint": network.fingerprint},
            "data": data.digests(),
            "seed": plan.seed,
            "precision": plan.precision,
            "packages": package_versions(_packages(plan)),
        }
        if not data.is_random:
            remember_place(plan, data, store)
        classes = data.evaluate.classes
        drawn = plot(ablation_rows(report), model=network.name)
        pack(Path(plan.output), built, chain.weight_folders(), classes=classes, facts=facts, report=report, plot=drawn)
        store.sweep()
        return report
    finally:
        torch.set_num_threads(threads)


def _packages(plan: Plan) -> list[str]:
    return sorted({"torch", "numpy", *(name for target in plan.targets for name in backend(target.backend).packages)})


def _runtimes(plan: Plan) -> str:
    """Return a digest of what latency is measured on: targets, the versions of their runtimes, this machine."""
    targets = [msgspec.to_builtins(target) for target in plan.targets]
    return digest(targets, package_versions(_packages(plan)), [platform.machine(), platform.node()])
