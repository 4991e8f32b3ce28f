"""`edgeport build`: its flags, and what it prints."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from edgeport.console import only_results_on_stdout, quiet_environment, reported, stdout, tell, terminal


def build(  # noqa: PLR0913, PLR0917  # one parameter a flag: the contract of the command line
    model: Annotated[
        str | None, typer.Argument(help="module:factory, file.py:factory or a .pt2; none: the embedded default")
    ] = None,
    target: Annotated[str | None, typer.Option(help="targets, comma separated, or all")] = None,
    weights: Annotated[str | None, typer.Option(help=".safetensors, or a .pt with a state_dict")] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="samples for int8 ranges: folder, .npz, file.py:callable, recipe (none: only weights in int8)"
        ),
    ] = None,
    evaluate: Annotated[
        str | None, typer.Option(help="samples for the verdict (default: a fifth of --calibrate)")
    ] = None,
    train: Annotated[str | None, typer.Option(help="samples for --distill")] = None,
    tune: Annotated[
        str | None, typer.Option(help="labelled samples to choose settings on (default: a fifth of --calibrate)")
    ] = None,
    prune: Annotated[
        str | None,
        typer.Option(
            help="share of filters to cut, 0..1, or some of filter:0.5,layer:2,fine:0.8,kernel:0.5,vector:0.5,2:4"
        ),
    ] = None,
    distill: Annotated[int | None, typer.Option(help="epochs of distillation")] = None,
    teacher: Annotated[
        str | None, typer.Option(help="networks to learn from instead of MODEL, comma separated: file.py:factory")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="softens the teacher's and the student's answers (default: 4)")
    ] = None,
    hard_labels: Annotated[
        float | None, typer.Option(help="share of the loss that the labels of --train have, 0..1 (default: 0.1)")
    ] = None,
    features: Annotated[
        float | None, typer.Option(help="weight of attention maps in distillation (default: 0, outputs alone)")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="of the network's classes, those to keep: names or indices, comma separated")
    ] = None,
    repair_bias: Annotated[
        bool | None,
        typer.Option("--repair-bias", help="after --distill: shift the scores of classes that --train lacks"),
    ] = None,
    qat: Annotated[int | None, typer.Option(help="epochs of quantization-aware training of the int8 files")] = None,
    precision: Annotated[Literal["int8", "float16", "float32"] | None, typer.Option(help="of the shipped file")] = None,
    weight_bits: Annotated[
        int | None,
        typer.Option(help="of int8 files' weights: 8, 4; with --qat 2 (ternary), 1 (binary) (default: 8)"),
    ] = None,
    max_drop: Annotated[float | None, typer.Option(help="points of top-1 that may be lost")] = None,
    max_latency: Annotated[
        float | None, typer.Option(help="milliseconds that an inference may take on the target", metavar="MS")
    ] = None,
    max_energy: Annotated[
        float | None, typer.Option(help="millijoules that an inference may take on the target", metavar="MJ")
    ] = None,
    max_size: Annotated[str | None, typer.Option(help="bytes that the shipped file may have: 500kB")] = None,
    max_ram: Annotated[str | None, typer.Option(help="bytes that it may need while it runs: 256kB")] = None,
    per_day: Annotated[int | None, typer.Option(help="inferences a day, for the energy of a day")] = None,
    output: Annotated[str | None, typer.Option(help="folder for the results (default: edgeport-out)")] = None,
    config: Annotated[
        str | None, typer.Option(help="configuration file (default: edgeport.toml where there is one)")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of everything random (default: 0)")] = None,
    importance: Annotated[
        Literal["l1", "l2", "fpgm", "group", "bn", "taylor", "activation", "reconstruction", "auto"] | None,
        typer.Option(help="how filters are ranked (default: l1)"),
    ] = None,
    allocation: Annotated[
        Literal["uniform", "even", "global", "sensitivity"] | None,
        typer.Option(help="how the cut is shared out among layers (default: uniform)"),
    ] = None,
    macs: Annotated[float | None, typer.Option(help="share of multiply-adds to keep, instead of --prune")] = None,
    size: Annotated[
        str | None, typer.Option(help="weights to keep, 500kB or a share such as 0.5, instead of --prune")
    ] = None,
    latency: Annotated[
        float | None, typer.Option(help="share of the float file's latency to keep on each target, instead of --prune")
    ] = None,
    prune_rounds: Annotated[
        int | None, typer.Option(help="cuts on the way to --macs, --size or --latency, each followed by distillation")
    ] = None,
    calibration: Annotated[
        Literal["auto", "minmax", "percentile", "entropy", "mse"] | None,
        typer.Option(help="how ranges are made of statistics (default: auto)"),
    ] = None,
    correction: Annotated[
        str | None, typer.Option(help="of weights: auto, none, or some of equalize,bias,adaround (default: auto)")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="for this build's own computing (default: 1)")] = None,
    network_input: Annotated[
        str | None, typer.Option("--input", help="what the network takes, for builds without data: 3x32x32[,16:int64]")
    ] = None,
    emulate: Annotated[
        bool | None,
        typer.Option(
            "--emulate/--no-emulate", help="run files on emulated processors where there is an emulator (default: yes)"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the resolved plan and stop")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print report.json")] = False,
) -> None:
    """Build validated files for one or more targets."""
    with reported():
        from edgeport.options import Options
        from edgeport.plan import resolve

        quiet_environment(threads)
        flags = Options(
            model=model,
            target=target,
            weights=weights,
            calibrate=calibrate,
            evaluate=evaluate,
            train=train,
            tune=tune,
            prune=prune,
            distill=distill,
            teacher=teacher,
            temperature=temperature,
            hard_labels=hard_labels,
            features=features,
            classes=classes,
            repair_bias=repair_bias,
            qat=qat,
            precision=precision,
            weight_bits=weight_bits,
            max_drop=max_drop,
            max_latency=max_latency,
            max_energy=max_energy,
            max_size=max_size,
            max_ram=max_ram,
            per_day=per_day,
            output=output,
            seed=seed,
            importance=importance,
            allocation=allocation,
            macs=macs,
            size=size,
            latency=latency,
            prune_rounds=prune_rounds,
            calibration=calibration,
            correction=correction,
            threads=threads,
            input=network_input,
            emulate=emulate,
        )
        plan = resolve(flags, config)
        if dry_run:
            import msgspec

            typer.echo(msgspec.json.format(msgspec.json.encode(plan), indent=1).decode())
            return
        from edgeport.pipeline import build as run
        from edgeport.report.progress import TerminalProgress

        with only_results_on_stdout():
            report = run(plan, progress=TerminalProgress(terminal(stderr=True)))
        if as_json:
            typer.echo(report.to_json(), nl=False)
            for name, why in report.failures.items():  # without --json the table says it
                tell(f"{name}: not built: {why}", report.exit_code)
        else:
            from edgeport.report.table import ablation_rows, print_report
            from edgeport.stages.pack import STEPS_PLOT

            print_report(report, stdout())
            drawn = f", the steps as a plot: {plan.output}/{STEPS_PLOT}" if ablation_rows(report) else ""
            typer.echo(f"files: {plan.output}{drawn}")
        raise typer.Exit(report.exit_code)
