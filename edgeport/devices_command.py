"""`edgeport devices`: where files can be run, and what it takes to make that ready."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from edgeport.console import reported, stdout, terminal
from edgeport.errors import ConfigError, MissingPackageError, StageError

devices = typer.Typer(invoke_without_command=True, add_completion=False, rich_markup_mode=None)


@devices.callback()
def listed(context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List where files can be run: this machine, and processors under emulation."""
    if context.invoked_subcommand is not None:
        return
    with reported():
        from edgeport.devices.listing import states

        found = states()
        if as_json:
            typer.echo(json.dumps([dataclasses.asdict(state) for state in found], indent=1))
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("device", "machine", "runtimes", "state"):
            table.add_column(column, no_wrap=column != "state")
        for state in found:
            runtimes = ", ".join(state.runtimes) or "as installed here"
            said = Text("ready", style="green") if state.is_ready else Text(state.remedy)
            table.add_row(state.name, state.machine, runtimes, said)
        stdout().print(table)


@devices.command()
def setup(
    name: Annotated[str, typer.Argument(help="qemu:arm64 or qemu:armv7")],
) -> None:
    """Make the small system that emulated ARM cores run, from Debian's and PyPI's packages (about 300 MB).

    And fetch QEMU's plugin header, which counting instructions needs, where there is none.

    The only command that uses the network. Stopped, it goes on where it was; run again, it checks every file.
    """
    with reported():
        from edgeport.devices.listing import sysroot_named

        sysroot = sysroot_named(name)
        try:
            from edgeport.devices.setup import set_up
        except ImportError as error:  # fcntl
            raise ConfigError(f"{name} needs Linux") from error
        from edgeport.devices import counter_header, qemu

        console = terminal(stderr=True)

        def say(line: str) -> None:
            console.print(line, highlight=False, markup=False, soft_wrap=True)

        set_up(sysroot, say)
        try:
            counter_header.make_ready(qemu.version(qemu.device(sysroot.cores[0])), say)
        except (MissingPackageError, StageError) as error:  # files run without it
            say(f"skip  {counter_header.NAME}: {error}; instructions will not be counted")
        cores = ", ".join(f"qemu:{core}" for core in sysroot.cores)
        typer.echo(f"ready: {cores} in {sysroot.place}")
