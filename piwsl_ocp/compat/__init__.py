"""Stand-ins for compiled packages that fairchem imports; import this before fairchem.

Importing it loads torch and nothing of fairchem. A package that is installed and can be imported
always wins; the others are put into `sys.modules` in pure PyTorch:

* `torch_scatter`: scatter, segment and gather functions (`compat.scatter`);
* `torch_cluster`, or `pyg_lib` for torch_geometric from 2.8 on: the neighbour search behind
  torch_geometric's `radius_graph`, nearest neighbours first (`compat.radius`);
* `torch_sparse`: only the name `SparseTensor`, which GemNet and DimeNet++ import;
* `scipy.special.sph_harm`, which scipy 1.17 removed.

Processes started by `multiprocessing` from this one get the stand-ins before they unpickle
anything. A job in a process of its own (submitit, a cluster) needs an entry function that lives
in this package.
"""

from __future__ import annotations

from piwsl_ocp.compat import radius, scatter

import importlib
import importlib.machinery
import importlib.util
import multiprocessing
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, NoReturn

import torch

#: What a package that was built for another torch raises when it is imported.
_BROKEN = (ImportError, OSError, RuntimeError, AttributeError)

_SEGMENT_NAMES = ("segment_coo", "segment_csr", "gather_coo", "gather_csr")
_SCATTER_NAMES = (
    "scatter", "scatter_sum", "scatter_add", "scatter_mul", "scatter_mean", "scatter_min",
    "scatter_max",
)  # fmt: skip
_CLUSTER_NAMES = ("radius", "radius_graph", "knn")

_RADIUS_SCHEMA = (
    "radius(Tensor x, Tensor y, Tensor? ptr_x, Tensor? ptr_y, float r, int? max_num_neighbors, "
    "int num_workers, bool ignore_same_index) -> Tensor"
)

_state: dict[str, str] = {}
_kept_alive: list[Any] = []


def stand_ins() -> dict[str, str]:
    """What every package that fairchem may want is in this process.

    Returns:
        By name "real x.y", "stand-in" or "stand-in (why the installed one cannot be used)".
    """
    return dict(_state)


def _release(distribution: str) -> tuple[int, ...]:
    """Leading numbers of an installed version; empty when it is not installed."""
    try:
        text = version(distribution)
    except PackageNotFoundError:
        return ()
    numbers = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _module(name: str, **names: Any) -> ModuleType:
    module = ModuleType(name, f"Pure-PyTorch stand-in for {name}.")
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
    module.__version__ = "0+piwsl_ocp"
    vars(module).update(names)
    return module


def _make_scatter() -> list[ModuleType]:
    functions = {n: getattr(scatter, n) for n in _SCATTER_NAMES + _SEGMENT_NAMES}
    package = _module("torch_scatter", __path__=[], **functions)
    utils = _module("torch_scatter.utils", broadcast=scatter.broadcast)
    package.utils = utils
    return [package, utils]


class SparseTensor:
    """The name that GemNet and DimeNet++ import; making one needs the real torch_sparse."""

    def __init__(self, *arguments: object, **options: object) -> None:
        raise ImportError(
            "SparseTensor (GemNet, DimeNet++) needs the real torch_sparse: "
            "install torch_sparse for this torch, or choose another model"
        )


def _make_sparse() -> list[ModuleType]:
    return [_module("torch_sparse", SparseTensor=SparseTensor)]


def _absent_function(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__"):
        raise AttributeError(name)
    return radius.absent(name, "torch_cluster")


def _make_cluster() -> list[ModuleType]:
    functions = {n: getattr(radius, n) for n in _CLUSTER_NAMES}
    placeholder = getattr(sys.modules.get("torch_geometric.typing"), "torch_cluster", None)
    if placeholder is not None:  # torch_geometric was loaded first and keeps this object
        vars(placeholder).update(functions)
    return [_module("torch_cluster", **functions, __getattr__=_absent_function)]


def _absent_operator(name: str) -> NoReturn:
    raise AttributeError(f"'{name}' needs the real pyg_lib: the stand-in of piwsl_ocp lacks it")


def _make_pyg_lib() -> list[ModuleType]:
    if not hasattr(torch.ops.pyg, "radius"):
        library = torch.library.Library("pyg", "FRAGMENT")
        library.define(_RADIUS_SCHEMA)
        library.impl("radius", radius.radius_of_pointers, "CompositeExplicitAutograd")
        _kept_alive.append(library)
    operators = _module("pyg_lib.ops", radius=torch.ops.pyg.radius, __getattr__=_absent_operator)
    sampler = _module("pyg_lib.sampler", neighbor_sample=radius.neighbor_sample)
    package = _module("pyg_lib", __path__=[], ops=operators, sampler=sampler)
    loaded_typing = sys.modules.get("torch_geometric.typing")
    if loaded_typing is not None:
        loaded_typing.WITH_RADIUS = True
    return [package, operators, sampler]


def _neighbour_search() -> tuple[str, Callable[[], list[ModuleType]]]:
    """The package that the installed torch_geometric asks for neighbours."""
    if _release("torch_geometric") >= (2, 8):
        return "pyg_lib", _make_pyg_lib
    return "torch_cluster", _make_cluster


def _why_unusable(name: str) -> str | None:
    """None when the real package can be imported, else the reason ("" when it is absent)."""
    if importlib.util.find_spec(name) is None:
        return ""
    try:
        importlib.import_module(name)
    except _BROKEN as error:
        for loaded in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[loaded]
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def _provide(name: str, make: Callable[[], list[ModuleType]]) -> None:
    reason = _why_unusable(name)
    if reason is None:
        _state[name] = f"real {getattr(sys.modules[name], '__version__', 'of unknown version')}"
        return
    for module in make():
        sys.modules[module.__name__] = module
    _state[name] = f"stand-in ({reason})" if reason else "stand-in"
    if reason:
        warnings.warn(
            f"the installed {name} cannot be imported ({reason}), piwsl_ocp stands in for it: "
            f"reinstall {name} for torch {torch.__version__} or remove it",
            stacklevel=3,
        )


def _sph_harm(m: Any, n: Any, theta: Any, phi: Any) -> Any:
    """Spherical harmonic of order m and degree n; theta is the azimuth, phi the polar angle."""
    from scipy.special import sph_harm_y

    return sph_harm_y(n, m, phi, theta)


def _provide_sph_harm() -> None:
    name, release = "scipy.special.sph_harm", _release("scipy")
    if release < (1, 17):
        _state[name] = f"real {'.'.join(map(str, release))}"
        return
    import scipy.special

    scipy.special.sph_harm = _sph_harm
    _state[name] = "stand-in"


def _reach_children() -> None:
    """Make a process started by `multiprocessing` import this module before it unpickles its task.

    A process inherits the settings of the one that starts it, and they are unpickled first: a
    reference to a function of this module among them is enough.
    """
    settings = getattr(multiprocessing.current_process(), "_config", None)
    if isinstance(settings, dict):
        settings["piwsl_ocp.compat"] = stand_ins


def _install() -> None:
    _provide("torch_scatter", _make_scatter)
    _provide("torch_sparse", _make_sparse)
    _provide(*_neighbour_search())
    _provide_sph_harm()
    if any(kind.startswith("stand-in") for kind in _state.values()):
        _reach_children()


_install()
