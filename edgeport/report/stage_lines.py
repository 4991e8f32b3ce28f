"""What each stage did, as a line or some of the printed report."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgeport.report import units
from edgeport.types import StageRecord

SHOWN_REASONS = 4  # of what pruning left whole
SHOWN_CLASSES = 12
INDENT = " " * 12


def stage_line(stage: StageRecord) -> str:
    """Return what there is to say of a stage; empty: nothing. Further lines are indented."""
    describe = _STAGES.get(stage.name)
    return describe(stage) if describe else ""


def data_lines(stage: StageRecord) -> list[str]:
    """Return what is wrong with the calibration data, a line a finding."""
    findings = stage.metrics.get("findings")
    if not isinstance(findings, (list, tuple)):
        return []
    return [str(finding["sentence"]) for finding in findings if isinstance(finding, dict) and "sentence" in finding]


def _trace_line(stage: StageRecord) -> str:
    def shape(key: str) -> str:
        return ", ".join(f"{name} {'x'.join(map(str, dims)) or 'scalar'}" for name, dims, _ in stage.metrics[key])  # type: ignore[attr-defined]  # JSON rows

    fixed = "; takes batches of one only" if stage.metrics.get("dynamic_batch") is False else ""
    interface = f"{shape('inputs')} -> {shape('outputs')}"
    return f"{units.count(_number(stage, 'parameters'))} parameters, {interface}{fixed}{_classes_line(stage)}"


def _classes_line(stage: StageRecord) -> str:
    """Return which classes the network was cut to, or nothing."""
    cut = stage.metrics.get("classes")
    if not isinstance(cut, dict):
        return ""
    names = [str(name) for name in cut["names"] or cut["kept"]]
    more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    return f"\n{INDENT}{len(names)} of {cut['of']} classes: {', '.join(names[:SHOWN_CLASSES])}{more}"


def _prune_line(stage: StageRecord) -> str:
    before, after = _number(stage, "macs_before"), _number(stage, "macs_after")
    weights_before, weights_after = _number(stage, "parameters_before"), _number(stage, "parameters_after")
    return (
        f"multiply-adds {units.count(before)} -> {units.count(after)} ({before / after:.2f}x fewer), "
        f"parameters {units.count(weights_before)} -> {units.count(weights_after)}"
        f"{_how_cut(stage)}{_repair_lines(stage)}{_left_out(stage)}{_whole_lines(stage)}"
    )


def _repair_lines(stage: StageRecord) -> str:
    """Return what was done for the cut network without training, and why where it was not."""
    lines = []
    compensation, recalibration = stage.metrics.get("compensation"), stage.metrics.get("recalibration")
    if isinstance(compensation, dict):
        made = f"{compensation.get('layers')} layers make up for cut channels"
        lines.append(_repair(compensation, made))
    if isinstance(recalibration, dict):
        lines.append(_repair(recalibration, "batch norms measured again"))
    return "".join(f"\n{INDENT}{line}" for line in lines)


def _repair(facts: Mapping[str, object], done: str) -> str:
    if "skipped" in facts:
        return f"not repaired: {facts['skipped']}"
    return f"repaired: {done}, on {facts['samples']} samples of {facts['data']}"


def _how_cut(stage: StageRecord) -> str:
    """Return the options of pruning that are not the default, and what `auto` chose."""
    facts, options = stage.metrics.get("importance"), stage.options
    parts = []
    if isinstance(facts, dict) and "used" in facts and options.get("importance") != "l1":
        compared = facts.get("compared")
        tried = sum("error" in figures for figures in compared.values()) if isinstance(compared, dict) else 0
        parts.append(f"importance {facts['used']}{f', the best of {tried}' if tried else ''}")
        if others := facts.get("by_l1"):
            parts.append(f"l1 for {', '.join(str(layers[0]) for layers in others)}")
        if others := facts.get("by_group"):
            parts.append(f"group for {', '.join(str(layers[0]) for layers in others)}")
    if options.get("allocation", "uniform") != "uniform":
        parts.append(f"{options['allocation']} allocation")
    if "budget" in stage.metrics:
        share = stage.metrics.get("latency_share")
        timed = f" ({share:.2f} of the latency, by float files)" if isinstance(share, float) else ""
        parts.append(f"for {stage.metrics['budget']}{timed}")
    return f"; {', '.join(parts)}" if parts else ""


def _sparsify_line(stage: StageRecord) -> str:
    weights, nonzero = _number(stage, "weights"), _number(stage, "weights_nonzero")
    macs, needed = _number(stage, "macs"), _number(stage, "macs_nonzero")
    return (
        f"{' and '.join(map(str, stage.metrics['grains']))}: {100 * (1 - nonzero / weights):.1f} % of the weights are"  # type: ignore[call-overload]  # JSON list
        f" zero, and {100 * (1 - needed / macs):.1f} % of the multiply-adds multiply by zero"
        f"\n{INDENT}the runtimes compute zeros like other weights: only the compressed size gains"
        f"\n{INDENT}(but for TFLite files in float32, which leave zeros out){_whole_lines(stage)}"
    )


def _left_out(stage: StageRecord) -> str:
    blocks = stage.metrics.get("blocks", [])
    names = (
        [str(block["block"]).rpartition("/")[0] or "/" for block in blocks] if isinstance(blocks, (list, tuple)) else []
    )
    return f"\n{INDENT}left out: {', '.join(names)}" if names else ""


def _whole_lines(stage: StageRecord) -> str:
    whole = stage.metrics.get("left_whole", [])
    reasons = [str(reason) for reason in whole] if isinstance(whole, (list, tuple)) else []
    more = [f"and {len(reasons) - SHOWN_REASONS} more, see report.json"] if len(reasons) > SHOWN_REASONS else []
    return "".join(f"\n{INDENT}{reason}" for reason in [*reasons[:SHOWN_REASONS], *more])


def _distill_line(stage: StageRecord) -> str:
    epochs = stage.metrics.get("epochs")
    line = (
        f"{epochs} epoch{'' if epochs == 1 else 's'} of {stage.metrics.get('samples')} samples, {stage.seconds:.1f} s"
    )
    if why := stage.metrics.get("diverged"):
        line += f"\n{INDENT}STOPPED: {why}\n{INDENT}the weights after epoch {epochs} were kept"
    return line


def _repair_line(stage: StageRecord) -> str:
    names = stage.metrics["classes"]
    if not isinstance(names, (list, tuple)) or not names:
        return "nothing to repair: no class is rare in the training samples"
    more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    return (
        f"{_number(stage, 'offset'):+.2f} on the scores of {', '.join(map(str, names[:SHOWN_CLASSES]))}{more}, rare in"
        f" the training samples; top-1 on {stage.metrics['tune_samples']} tune samples"
        f" {_number(stage, 'tune_top1_before'):.2f} -> {_number(stage, 'tune_top1_after'):.2f} %, of these classes"
        f" {_number(stage, 'tune_recall_before'):.2f} -> {_number(stage, 'tune_recall_after'):.2f} %"
    )


def _calibrate_line(stage: StageRecord) -> str:
    counted = stage.metrics.get("estimators")
    parts = [f"{count} {name}" for name, count in counted.items()] if isinstance(counted, dict) else []
    ranges = f"; ranges {', '.join(parts)}" if parts else ""
    if stage.options.get("method") == "auto" and parts:
        ranges += f" ({stage.metrics['chosen']})"
    warnings = [
        f"{len(names)} activation{'s' * (len(names) > 1)} {words}: {', '.join(names[:SHOWN_REASONS])}"
        for key, words in _CALIBRATION_WARNINGS.items()
        if isinstance(names := stage.metrics.get(key), (list, tuple)) and names
    ]
    tail = "".join(f"\n{INDENT}{line}" for line in warnings)
    return f"{stage.metrics.get('samples')} samples, {stage.metrics.get('activations')} activations{ranges}{tail}"


_CALIBRATION_WARNINGS = {"always_zero": "always zero", "outliers": "with a range set by outliers"}


def _equalize_line(stage: StageRecord) -> str:
    kept = "kept" if stage.metrics["kept"] else "not kept"
    return f"{kept}, {stage.metrics['why']}{_change(stage.metrics, 'before', 'after')}"


def _correct_line(stage: StageRecord) -> str:
    found = stage.metrics["bits"]
    if not isinstance(found, dict) or not found:
        return f"nothing kept, {stage.metrics.get('why', 'no layer to correct')}"
    lines = []
    for bits, figures in found.items():
        kept = "+".join(figures["kept"]) or "nothing"
        last = [name for name in figures if isinstance(figures[name], dict)][-1:]
        lines.append(f"{bits} bits: {kept} kept, {figures['why']}{_change(figures, 'none', *last)}")
    return f"\n{INDENT}".join(lines)


def _change(figures: Mapping[str, object], before: str, after: str = "") -> str:
    """Return how far from float the int8 network was without and with what was tried last, or nothing."""
    first, last = figures.get(before), figures.get(after)
    if not isinstance(first, dict) or not isinstance(last, dict):
        return ""
    text = f" (squared error {first['error']:.2g} -> {last['error']:.2g}"
    if first["agreement"] is not None:
        text += f", agreement {first['agreement']:.1f} -> {last['agreement']:.1f} %"
    return text + ")"


def _lower_line(stage: StageRecord) -> str:
    if stage.options.get("precision") in _KEPT:
        return _KEPT[str(stage.options["precision"])]
    checked = [(name, found) for name, found in stage.metrics.items() if isinstance(found, dict)]
    lines = [
        f"{name}: {found['macs_int8'] / max(1, found['macs_int8'] + found['macs_other']):.0%} of the multiply-adds run"
        f" in int8, {found['transposes']} transposes"
        for name, found in checked
        if "macs_int8" in found
    ]
    lines += [f"{name}: {found['control']['sentence']}" for name, found in checked if "control" in found]
    return f"\n{INDENT}".join(lines)


_KEPT: Mapping[str, str] = {  # precisions of weights alone
    "float16": "float16 weights, computed in float32",
    "dynamic_int8": "int8 weights, float activations (no --calibrate)",
}


def _number(stage: StageRecord, key: str) -> float:
    value = stage.metrics[key]
    if not isinstance(value, (int, float)):
        raise TypeError(f"{stage.name}: {key} is not a number: {value!r}")
    return float(value)


_STAGES: Mapping[str, Callable[[StageRecord], str]] = {
    "trace": _trace_line,
    "prune": _prune_line,
    "sparsify": _sparsify_line,
    "distill": _distill_line,
    "repair": _repair_line,
    "equalize": _equalize_line,
    "calibrate": _calibrate_line,
    "correct": _correct_line,
    "finetune": _distill_line,
    "lower": _lower_line,
}
