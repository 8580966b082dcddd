"""The wheel holds what the tree holds, and the folders never become import roots."""

import ast
import multiprocessing
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("model", "fits", "scripts")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]


def dotted(folder: Path) -> str:
    return "reinfuse." + folder.relative_to(ROOT).as_posix().replace("/", ".")


def test_every_subpackage_is_listed():
    found = {dotted(init.parent) for part in PARTS for init in (ROOT / part).rglob("__init__.py")}
    assert found == set(SETUPTOOLS["packages"])


def test_every_folder_of_modules_is_a_package():
    with_modules = {module.parent for part in PARTS for module in (ROOT / part).rglob("*.py")}
    # kernels written at run time are loaded from their files, not imported as a package
    without_init = {
        dotted(folder)
        for folder in with_modules
        if not (folder / "__init__.py").exists() and folder.name != "generated"
    }
    assert without_init == set()


def test_each_part_says_that_it_is_typed():
    assert [part for part in PARTS if not (ROOT / part / "py.typed").exists()] == []


def test_every_data_file_is_matched_by_package_data():
    patterns = SETUPTOOLS["package-data"]["*"]
    forgotten = []
    for name in SETUPTOOLS["packages"]:
        folder = ROOT / name.removeprefix("reinfuse.").replace(".", "/")
        subpackages = {init.parent for init in folder.rglob("*/__init__.py")}
        shipped = {path for pattern in patterns for path in folder.glob(pattern)}
        for path in folder.rglob("*"):
            owner = next(parent for parent in path.parents if parent in subpackages or parent == folder)
            is_data = path.is_file() and path.suffix not in {".py", ".pyc", ".nbi", ".nbc"}
            if owner == folder and is_data and "generated" not in path.parts and path not in shipped:
                forgotten.append(path.relative_to(ROOT).as_posix())
    assert forgotten == []


def test_every_third_party_import_is_a_declared_dependency():
    def plain(distribution: str) -> str:
        return re.match(r"[\w.-]+", distribution)[0].lower().replace("_", "-")

    project = PYPROJECT["project"]
    extras = (line for lines in project["optional-dependencies"].values() for line in lines)
    declared = {plain(line) for line in (*project["dependencies"], *extras)}
    providers = packages_distributions()
    undeclared = set()
    for path in (module for part in PARTS for module in (ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                tops = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                tops = [node.module.split(".")[0]]
            else:
                continue
            for top in set(tops) - sys.stdlib_module_names - {"reinfuse"}:
                if not declared & {plain(provider) for provider in providers.get(top, [])}:
                    undeclared.add(f"{path.relative_to(ROOT).as_posix()}: {top}")
    assert undeclared == set()


def test_folders_are_not_import_roots():
    # in a process of its own: what pytest has imported by now says nothing about a user's session
    program = (
        "import pkgutil, importlib, sys\n"
        "import reinfuse.model, reinfuse.fits, reinfuse.scripts\n"
        "for part in (reinfuse.model, reinfuse.fits, reinfuse.scripts):\n"
        "    for module in pkgutil.iter_modules(part.__path__, part.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "print(sorted({'model', 'fits', 'scripts'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_spawned_process_imports():
    # by name, in a fresh interpreter: workers of a process pool start like this
    from reinfuse.scripts._shell import clock

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(clock, [61.0]) == ["1:01"]
