"""Kernels where they are hard to have: a read-only installation, spawned workers, no compiler; and no stale one."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from reinfuse.model.course import Infusion
from reinfuse.model.kernels import policy
from reinfuse.model.simulate import simulate

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in (getattr(f, "__name__", "") or type(f).__name__).lower()]
import numpy as np
from types import SimpleNamespace
from reinfuse.model.derive import build as builder
from reinfuse.model.equations.definition import OdeModel, State
decay = OdeModel(
    "decay", (State("N", "-"),), (), lambda p: ({"N": p.n0}, {}), lambda t, y, h, p: {"N": -p.k},
    lambda t, y, h, p: {"N": y.N},
)
kernel = builder.build(decay)
theta = np.array([[{"k": 0.3, "n0": 5.0}[name] for name in kernel.parameters]])
none = (np.zeros((1, 1)), np.zeros((1, 1), dtype=np.int64), np.zeros(1, dtype=np.int64))
out, status = np.zeros((1, 1, 1)), np.zeros(1, dtype=np.int64)
kernel.simulate(theta, *none, np.array([2.0]), 1e-8, 1000, out, status)
print(builder.__file__, kernel.module.__file__, out[0, 0, 0], sep="\\n")
"""


@pytest.fixture
def installed(tmp_path):
    """A copy of `model/` as an installed package, and a function that runs a program with it."""
    package = tmp_path / "site" / "reinfuse"
    shutil.copytree(ROOT / "model", package / "model", ignore=shutil.ignore_patterns("generated", "__pycache__"))

    def run(**environment):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "REINFUSE", "XDG"))}
        env |= {"PYTHONPATH": str(package.parent), "HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=env | environment,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        source, generated, value = done.stdout.split()
        assert Path(source).is_relative_to(package)
        return Path(generated), float(value)

    run.package = package / "model"
    return run


def test_an_edit_of_the_installed_package_takes_effect_at_once(installed):
    """The second start would load what the first one compiled, were it still the same text."""
    assert installed()[1] == pytest.approx(5.0 * np.exp(-0.6))
    records = installed.package / "kernels" / "records.py"
    marked = records.read_text(encoding="utf-8").replace("FIRST_STEP = 0.02", "FIRST_STEP = 0.01")
    records.write_text(marked, encoding="utf-8")
    before = {path.name for path in (installed.package / "kernels" / "generated").glob("solver_*.py")}
    assert installed()[1] == pytest.approx(5.0 * np.exp(-0.6))
    after = {path.name for path in (installed.package / "kernels" / "generated").glob("solver_*.py")}
    assert len(after - before) == 1
    emit = installed.package / "derive" / "emit.py"
    negation = 'text = f"-{args[0]}"'
    text = emit.read_text(encoding="utf-8")
    assert negation in text
    emit.write_text(text.replace(negation, 'text = f"-2.0 * {args[0]}"'), encoding="utf-8")
    assert installed()[1] != pytest.approx(5.0 * np.exp(-0.6)), "rates are written otherwise now"


def test_a_place_that_cannot_be_written_is_no_obstacle(installed, tmp_path):
    """Generated files go to the user's cache when the package's own folder is taken by a file."""
    (installed.package / "kernels" / "generated").write_text("", encoding="utf-8")
    generated, value = installed(XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert value == pytest.approx(5.0 * np.exp(-0.6))
    assert generated.parent == tmp_path / "cache" / "reinfuse"


def test_without_a_place_for_the_cache_kernels_live_in_memory(monkeypatch):
    asked = []

    def compile_(**cache):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available for file")
        return "compiled"

    assert policy._cached(compile_) == "compiled"
    assert asked == [{"cache": True}, {}]

    def broken(**cache):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        policy._cached(broken)


def test_spawned_workers_give_the_same_bits():
    asked = [
        {"course": [Infusion(product="ide-cel")], "until": 100.0, "every": 10.0, "parameters": {"rho": rho}}
        for rho in (0.8, 1.0, 1.3)
    ]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(simulate, **one) for one in asked]
        found = [future.result(timeout=120) for future in running]
    for one, given in zip(found, asked, strict=True):
        assert one.identical(simulate(**given))
