"""`piwsl doctor`: show what is installed and whether everything that must work does."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

MARKS = {"ok": "[green]ok    [/]", "failed": "[red]FAILED[/]", "absent": "[yellow]absent[/]"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check this installation; exit code 1 when something that must work does not."""
    from piwsl_ocp.compat import stand_ins

    from piwsl_ocp import doctor as room

    console = Console(highlight=False)
    facts = {"versions": room.versions(), "packages": stand_ins(), "devices": room.devices()}
    if not as_json:
        for title, values in facts.items():
            console.print(_pairs(title, values))
    findings = []
    with console.status("trying ...") as status:
        for check in room.CHECKS:
            status.update(f"trying {check.name} ...")
            findings.append(room.attempt(check))
            if not as_json:
                _show(console, findings[-1])
    failed = [finding.name for finding in findings if finding.status == "failed"]
    if as_json:
        report = {**facts, "checks": [asdict(finding) for finding in findings], "ok": not failed}
        typer.echo(json.dumps(report, indent=1))
    elif failed:
        console.print(f"{len(failed)} of {len(findings)} failed: {', '.join(failed)}")
    else:
        console.print("everything that must work does")
    if failed:
        raise typer.Exit(1)


def _pairs(title: str, values: dict[str, str]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, value in values.items():
        table.add_row(name, value)
    return table


def _show(console: Console, finding: Any) -> None:
    console.print(f"{MARKS[finding.status]}  {finding.name:<15} ", end="")
    console.print(finding.detail, markup=False, soft_wrap=True)
    if finding.remedy:
        console.print(f"{'':>24}-> {finding.remedy}", markup=False, soft_wrap=True)
