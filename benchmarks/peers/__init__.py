"""One file per peer, all with the same small interface (`peers.interface`); `load` tells which of them are there."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

#: File -> the package that it needs.
PEERS = {
    "ours": "reinfuse",
    "heyoka": "heyoka",
    "diffrax": "diffrax",
    "numbalsoda": "numbalsoda",
    "cyrk": "CyRK",
    "sundae": "scikit-sundae",
    "scipy": "scipy",
}


def load(without: Collection[str] = ()) -> tuple[dict[str, ModuleType], dict[str, str]]:
    """The peers that can be imported, and for the others the reason."""
    found: dict[str, ModuleType] = {}
    missing: dict[str, str] = {}
    for name, package in PEERS.items():
        if name in without:
            missing[package] = "left out by --without"
            continue
        try:
            found[name] = import_module(f"{__name__}.{name}")
        except (ImportError, OSError) as error:
            missing[package] = f"cannot be imported: {error}"
    return found, missing


def versions() -> dict[str, str]:
    """Versions of everything that is compared."""
    result = {}
    for package in (*PEERS.values(), "jax", "equinox", "numba", "llvmlite", "numpy", "pymc"):
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            result[package] = "not installed"
    return result
