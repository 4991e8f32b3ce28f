"""The command line. Results go to stdout, progress and errors to stderr; the exit code is the verdict."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeport.build_command import build
from edgeport.console import INTERRUPTED, explained, only_results_on_stdout, quiet_environment, reported, stdout, tell
from edgeport.devices_command import devices
from edgeport.errors import ConfigError, LimitError, MissingPackageError

if TYPE_CHECKING:
    pass

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="One command from a PyTorch network to validated int8 files for phones, boards and PCs.",
)

UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # typer carries click under changing names


def main() -> int:
    """Run the command line in `sys.argv` and return the exit code."""
    try:
        code = _run(sys.argv[1:] or ["--help"])
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except OSError as error:
        code = tell(*explained(error))
    if code == INTERRUPTED:
        typer.echo("edgeport: interrupted; the finished steps are kept, run the same command to go on", err=True)
    return code


def _run(arguments: list[str]) -> int:
    try:
        return app(arguments, prog_name="edgeport", standalone_mode=False) or 0
    except typer.Abort:
        return INTERRUPTED
    except UsageError as error:
        message = error.format_message().rstrip(".")  # type: ignore[attr-defined]  # a UsageError of click
        place = getattr(getattr(error, "ctx", None), "command_path", "edgeport")
        return tell(f"{message[:1].lower()}{message[1:]}; see {place} --help", ConfigError.exit_code)


app.command()(build)
app.add_typer(devices, name="devices")


@app.command()
def targets(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List the targets."""
    with reported():
        from edgeport import profile

        known = [profile.load(name) for name in profile.known_targets()]
        if as_json:
            import msgspec

            typer.echo(msgspec.json.format(msgspec.json.encode(known), indent=1).decode())
            return
        width = max(len(target.name) for target in known)
        for target in known:
            integers = f"{target.int8.weight_bits}-bit weights, {target.int8.accumulator}"
            typer.echo(f"{target.name:<{width}}  {target.backend:<11}  {integers:<26}  {target.description}")


@app.command()
def doctor(
    data: Annotated[str | None, typer.Option(help="samples to examine, as for build --calibrate")] = None,
    model: Annotated[str | None, typer.Option(help="the network that they are for: finds wrong preprocessing")] = None,
    weights: Annotated[str | None, typer.Option(help="of the network")] = None,
    evaluate: Annotated[str | None, typer.Option(help="samples for evaluation, to hold against --data")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON; needs --data")] = False,
) -> None:
    """Say what is installed and what is missing; with --data, what is wrong with samples (6: something is)."""
    with reported():
        if data is not None:
            _examine(data, model, weights, evaluate, as_json=as_json)
        if model or weights or evaluate or as_json:
            raise ConfigError("--model, --weights, --evaluate and --json of doctor need --data DATA")
        from edgeport import doctor as examine

        for label, value in examine.machine().items():
            typer.echo(f"{label:<15} {value}")
        broken: list[str] = []
        for package in examine.packages():
            state = package.installed or "missing"
            name = f"edgeport[{package.extra}]" if package.extra else "edgeport"
            if not package.fits:
                broken.append(name)
                state += f"  needs {package.wanted}: pip install '{name}'"
            typer.echo(f"{'ok ' if package.fits else '-- '} {package.extra or 'core':<12} {package.name:<20} {state}")
        typer.echo("everything is installed" if not broken else f"fix: pip install {_quoted(broken)}")
        raise typer.Exit(MissingPackageError.exit_code if "edgeport" in broken else 0)


def _examine(data: str, model: str | None, weights: str | None, evaluate: str | None, *, as_json: bool) -> None:
    quiet_environment(None)
    from edgeport import checkup

    with only_results_on_stdout():
        seen = checkup.check_up(data, model=model, weights=weights, evaluate=evaluate)
    typer.echo(json.dumps(checkup.as_json(seen), indent=1) if as_json else "\n".join(checkup.described(seen)))
    raise typer.Exit(checkup.FOUND if any(examination.findings for examination in seen.values()) else 0)


def _quoted(names: list[str]) -> str:
    return " ".join(f"'{name}'" for name in dict.fromkeys(names))


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="a .tflite, .xml or .onnx")],
    target: Annotated[str | None, typer.Option(help="predict what an inference takes there: raspberry-pi-4")] = None,
    device: Annotated[
        str | None, typer.Option(help="also count what it executes, operator by operator: qemu:haswell, qemu:CORE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print operators, number formats, multiply-adds and bytes of a file; with --device, instructions."""
    with reported():
        quiet_environment(None)
        from edgeport import profile
        from edgeport.report.inspection import inspection, render_inspection

        found = inspection(file, None if target is None else profile.load(target))
        counts = None
        if device is not None:
            from edgeport.devices import qemu
            from edgeport.report.operator_counts import file_counts, render_counts

            if not device.startswith(qemu.PREFIX):
                raise ConfigError(f"instructions are counted under emulation: --device qemu:CORE, not '{device}'")
            counts = file_counts(file, qemu.device(device.removeprefix(qemu.PREFIX)))
        if as_json:
            typer.echo(json.dumps({**found, "counts": counts} if counts else found, indent=1))
            return
        render_inspection(found, stdout())
        if counts:
            render_counts(counts, stdout())


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="an output folder, or one target's folder in it")],
    device: Annotated[str, typer.Option(help="where to run")] = "host",
    threads: Annotated[int, typer.Option(help="threads of the runtime")] = 1,
) -> None:
    """Time the shipped file against the float file, interleaved."""
    with reported():
        quiet_environment(threads)
        from edgeport.bundle import bench_bundle
        from edgeport.devices import qemu

        if device.startswith(qemu.PREFIX):
            name = qemu.device(device).name  # a typing error is told first
            raise ConfigError(f"{name} is emulated, its time is no latency; edgeport verify --device {name} runs there")
        if device != "host":
            raise ConfigError(f"unknown device '{device}'; known: host (copy benchmark.py to a board to measure there)")
        for line in bench_bundle(bundle, threads=threads):
            typer.echo(line)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="an output folder of edgeport build")],
    isa: Annotated[str | None, typer.Option(help="emulated processor to run every file on: haswell")] = None,
    device: Annotated[
        str | None,
        typer.Option(help="ready device to run every file on, as edgeport devices lists it: qemu:cortex-a76"),
    ] = None,
    evaluate: Annotated[str | None, typer.Option(help="samples to run there (default: random numbers)")] = None,
    samples: Annotated[int, typer.Option(min=1, help="how many of them")] = 64,
) -> None:
    """Check every file of a build against its manifest, and load each artifact in its runtime.

    With --isa, also run each one here, in exact arithmetic and on that processor under emulation. With --device, run
    each one on an emulated core, in every runtime that it has, and compare with this machine.
    """
    with reported():
        quiet_environment(None)
        from edgeport.bundle import verify_bundle, verify_core, verify_isa
        from edgeport.devices import qemu

        if evaluate is not None and isa is None and device is None:
            raise ConfigError("--evaluate needs --isa or --device: without them, verify only checks the files")
        core = None if device is None else qemu.device(device).name.removeprefix(qemu.PREFIX)
        if core is not None and qemu.sysroot_of(core) is None:
            isa, core = core, None
        processor = None if isa is None else qemu.device(isa)
        if processor is not None and processor.is_apart:
            raise ConfigError(f"--isa {isa} is for x86; give --device {processor.name}")
        for line in verify_bundle(bundle):
            typer.echo(line)
        if processor is not None:
            for line in verify_isa(bundle, processor, evaluate=evaluate, samples=samples):
                typer.echo(line)
        if core is not None:
            for line in verify_core(bundle, core, evaluate=evaluate, samples=samples):
                typer.echo(line)


@app.command()
def debug(
    bundle: Annotated[Path, typer.Argument(help="an output folder of edgeport build")],
    data: Annotated[
        str | None, typer.Option(help="samples to run on (default: the build's evaluation samples, else random ones)")
    ] = None,
    samples: Annotated[int, typer.Option(help="how many samples")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say which layer of which runtime's file is wrong; the plot is debug.svg. Ends with 6 when a file is."""
    with reported():
        quiet_environment(None)
        from edgeport.debugging.debug import debug as examine
        from edgeport.report.debug_plot import write_plot
        from edgeport.report.debug_table import debugged_json, print_debugged

        with only_results_on_stdout():
            found = examine(bundle, data=data, count=samples)
        place = write_plot(found, bundle)
        if as_json:
            typer.echo(json.dumps(debugged_json(found), indent=1))
        else:
            print_debugged(found, stdout())
            typer.echo(f"plot: {place}")
        raise typer.Exit(LimitError.exit_code if found.is_anyone_wrong else 0)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="an output folder or report.json")],
    second: Annotated[Path, typer.Argument(metavar="B", help="an output folder or report.json")],
) -> None:
    """Print the figures of two builds side by side."""
    with reported():
        from edgeport.report.report import read_report
        from edgeport.report.table import print_comparison

        print_comparison(read_report(first), read_report(second), stdout())


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="an output folder or report.json")]) -> None:
    """Print the report of an earlier build; ends with its verdict's exit code."""
    with reported():
        from edgeport.report.report import read_report
        from edgeport.report.table import print_report

        found = read_report(folder)
        print_report(found, stdout())
        if (plot := folder / "debug.svg").is_file():
            typer.echo(f"plot of the layers, by edgeport debug: {plot}")
        raise typer.Exit(found.exit_code)
