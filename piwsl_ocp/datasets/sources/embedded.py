"""The files that ship with the project, by name: each is read by the source of its layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ase import Atoms

from piwsl_ocp.datasets.sources import ani1x, rmd17, tio2
from piwsl_ocp.datasets.sources.source import AS_PUBLISHED, ReadOptions, Source, SplitSizes
from piwsl_ocp.errors import UserError

FOLDER = Path(__file__).parents[1] / "embedded"

#: Label in the shipped file of molecules.
MOLECULES_PROPERTY = "gfn2_xtb"


@dataclass(frozen=True)
class EmbeddedFile:
    """A shipped file, the source of its layout, and the method behind its labels."""

    file_name: str
    layout: Source
    level_of_theory: str


FILES: dict[str, EmbeddedFile] = {
    "aspirin": EmbeddedFile("aspirin.npz", rmd17.SOURCE, "GFN2-xTB"),
    "ethanol": EmbeddedFile("ethanol.npz", rmd17.SOURCE, "GFN2-xTB"),
    "molecules": EmbeddedFile(
        "molecules.h5", replace(ani1x.SOURCE, property=MOLECULES_PROPERTY), "GFN2-xTB"
    ),
    "oxide": EmbeddedFile("oxide_xsf.tar.xz", tio2.SOURCE, "GFN1-xTB"),
}


def read(files: Sequence[Path], options: ReadOptions = AS_PUBLISHED) -> Iterator[Atoms]:
    """Yield the structures of shipped files, given by name or by path."""
    by_file = {entry.file_name: entry.layout for entry in FILES.values()}
    for name in files:
        _, paths = SOURCE.locate([name])
        layout = by_file[paths[0].name]
        own = replace(options, property=options.property or layout.property)
        yield from layout.read(paths, own)


class EmbeddedSource(Source):
    """The source whose FILES are names of shipped files."""

    def locate(self, names: Sequence[str | Path]) -> tuple[Source, tuple[Path, ...]]:
        """Return the source that reads the named file, and its path.

        Raises:
            UserError: if there is not exactly one name, or no such file.
        """
        if len(names) != 1:
            raise UserError(f"name one shipped file: {', '.join(FILES)}")
        by_file = {entry.file_name: name for name, entry in FILES.items()}
        name = by_file.get(Path(names[0]).name, str(names[0]))
        if name not in FILES:
            raise UserError(f"no shipped file '{names[0]}': use one of {', '.join(FILES)}")
        entry = FILES[name]
        source = replace(
            entry.layout,
            name=self.name,
            level_of_theory=entry.level_of_theory,
            references=self.references,
            atomic_energies={},
            sizes=self.sizes,
            split="random",
        )
        path = FOLDER / entry.file_name
        if not path.is_file():
            raise UserError(
                f"the shipped file '{entry.file_name}' is missing: install the project again, "
                f"or make it with `python scripts/make_demo_data.py {name}`"
            )
        return source, (path,)


SOURCE = EmbeddedSource(
    name="embedded",
    description=f"data that comes with the project; FILES is one of {', '.join(FILES)}",
    read=read,
    level_of_theory="GFN2-xTB (oxide: GFN1-xTB)",
    energy_unit=None,
    references="least_squares",
    sizes=SplitSizes(train=100),
)
