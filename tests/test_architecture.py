"""ARCHITECTURE.md and the tree say the same, and imports follow the house style."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("model", "fits", "scripts")


def modules() -> dict[str, Path]:
    """Dotted name (without `reinfuse.`) of every public module and package below the parts."""
    found = {}
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*.py")):
            relative = path.relative_to(ROOT)
            if "generated" in relative.parts:
                continue
            names = relative.parent.parts if path.name == "__init__.py" else relative.with_suffix("").parts
            found[".".join(names)] = path
    return found


MODULES = modules()


def on_the_map() -> set[str]:
    """Modules that ARCHITECTURE.md names anywhere."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(rf"`((?:{'|'.join(PARTS)})(?:\.\w+)*)`", text))
    # "`fits.converters` | … (`leipzig`)" needs no entry of its own: the row of the package covers its modules
    return named


def rows() -> set[str]:
    """Modules that have a row of their own in the map of modules."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.split("## Map of modules")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([\w.]+)` \|", section, flags=re.MULTILINE))


def test_the_map_is_read():
    assert {"model.parameters", "fits.cohort", "scripts"} <= rows() <= on_the_map()


def test_every_module_named_exists():
    assert sorted(on_the_map() - set(MODULES)) == []


def test_every_module_has_a_row_or_its_package_has():
    covered = rows()

    def is_covered(name: str) -> bool:
        parents = name.split(".")
        return any(".".join(parents[:depth]) in covered for depth in range(1, len(parents) + 1))

    # the parts themselves are the map's subject, and what they share needs no question of its own
    missing = [name for name in MODULES if name not in {*PARTS, "model.errors"} and not is_covered(name)]
    assert missing == []


def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def style_faults(name: str, path: Path, imported: list[ast.Import | ast.ImportFrom]) -> list[str]:
    """Imports of a module that break the house style, as `file:line: what`."""
    part = name.split(".")[0]
    root = f"reinfuse.{part}"
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    faults = []
    for node in imported:
        where = f"{path.relative_to(ROOT).as_posix()}:{node.lineno}"
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif node.level == 0:
            targets = [node.module or ""]
        else:
            base = package[: len(package) - node.level + 1]
            target = ".".join(["reinfuse", *base, *([node.module] if node.module else [])])
            if part == "scripts":
                faults.append(f"{where}: relative import; the file could not run by itself")
            if target == root:
                attributes = [a.name for a in node.names if f"{part}.{a.name}" not in MODULES]
                faults += [f"{where}: takes {a} from its own package root" for a in attributes]
            continue
        for target in targets:
            if target == root:
                faults.append(f"{where}: imports its own package root")
            elif part != "scripts" and target.startswith(f"{root}."):
                faults.append(f"{where}: absolute import of {target} inside its part; make it relative")
    return faults


@pytest.mark.parametrize("name", MODULES)
def test_imports_follow_the_house_style(name):
    assert style_faults(name, MODULES[name], imports(MODULES[name])) == []


@pytest.mark.parametrize(
    ("name", "line", "fault"),
    [
        ("fits", "import reinfuse.fits", "own package root"),
        ("fits", "from . import absent", "own package root"),
        ("fits", "from reinfuse.fits.cohort import Cohort", "make it relative"),
        ("scripts.main", "from ._shell import guarded", "run by itself"),
        ("fits", "from reinfuse.model.errors import ReinfuseError", None),
        ("scripts.main", "from reinfuse.scripts._shell import guarded", None),
    ],
)
def test_the_style_check_sees_planted_faults(name, line, fault):
    faults = style_faults(name, MODULES[name], ast.parse(line).body)
    assert [fault in found for found in faults] == ([True] if fault else [])
