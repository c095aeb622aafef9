"""Every command that the documents and the configuration files name is one that exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from piwsl_ocp.cli import build
from piwsl_ocp.ocp.config import find_config

ROOT = Path(__file__).parents[2]
PROGRAMS = ("piwsl", "python", "make")


def documented() -> list[str]:
    """Return the commands of shell blocks, of code spans, and of comments in YAML files."""
    found = set()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text()
        blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL))
        found.update(blocks.replace("\\\n", "").splitlines())
        found.update(re.findall(r"`([^`\n]+)`", text))
    for path in sorted((ROOT / "configs").rglob("*.yml")):
        lines = re.findall(r"^# +(.*)$", path.read_text(), flags=re.MULTILINE)
        found.update("\n".join(lines).replace("\\\n", "").splitlines())
    complete = (line for line in found if " / " not in line and "..." not in line)
    commands = (line for line in complete if re.match(rf"({'|'.join(PROGRAMS)}) \S", line))
    return sorted({shlex.join(shlex.split(line, comments=True)) for line in commands})


@pytest.mark.parametrize("command", [c for c in documented() if c.startswith("piwsl ")])
def test_piwsl_takes_the_arguments(command: str) -> None:
    _, *arguments = shlex.split(command)
    parser, name = get_command(build()), "piwsl"
    while hasattr(parser, "commands"):
        name, *arguments = arguments
        assert name in parser.commands
        parser = parser.commands[name]
    parser.make_context(name, arguments)


@pytest.mark.parametrize("command", [c for c in documented() if c.startswith("python ")])
def test_the_script_exists_and_so_does_its_configuration(command: str) -> None:
    _, script, *arguments = shlex.split(command)
    assert script == "-m" or (ROOT / script).is_file()
    if "--config-yml" in arguments:
        name = arguments[arguments.index("--config-yml") + 1]
        assert "<" in name or name == "FILE" or find_config(name).is_file()


@pytest.mark.parametrize("command", [c for c in documented() if c.startswith("make ")])
def test_make_knows_the_target(command: str) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    _, *arguments = shlex.split(command)
    assert {argument for argument in arguments if "=" not in argument} <= set(targets)


def test_there_are_commands_of_every_program() -> None:
    assert {command.split()[0] for command in documented()} == set(PROGRAMS)
