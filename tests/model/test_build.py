"""From a model's text to a cached file: pruning, names, digests, folders, and nothing stale."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reinfuse.model.densities import DENSITIES, Family
from reinfuse.model.derive import build as builder
from reinfuse.model.derive.build import build
from reinfuse.model.derive.source import generate
from reinfuse.model.derive.trace import Trace
from reinfuse.model.equations import bcma
from reinfuse.model.equations.definition import OdeModel, State
from reinfuse.model.kernels.interface import FUNCTIONS
from reinfuse.model.kernels.tableaux import METHODS
from reinfuse.model.parameters import REAL_COHORT, VARIANTS

from . import small_models as small

KINDS = ("transgene", "cart", "sbcma", "mprotein", "progression", "death")


def names(model, *, fixed=None, kinds=(), readouts=None):
    """What survives pruning; nothing is written or compiled."""
    return generate(Trace(model, fixed or {}), kinds, readouts)[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder for generated files, and a builder that remembers none."""
    monkeypatch.setenv("REINFUSE_CACHE", str(tmp_path))
    monkeypatch.setattr(builder, "_LOADED", {})
    return tmp_path


def files(folder: Path) -> set[str]:
    """Files of models."""
    return {path.name for path in folder.glob("*.py")} - solvers(folder)


def solvers(folder: Path) -> set[str]:
    """Files of solvers."""
    return {path.name for path in folder.glob("solver_*.py")}


class TestPruning:
    REAL = bcma.build(1, bcma.OPTIONS["real"])

    def test_everything_is_kept_for_a_simulation(self):
        kept = names(self.REAL)
        assert kept["states"] == tuple(s.name for s in self.REAL.states)
        assert set(kept["held"]) == set(self.REAL.held)

    def test_a_likelihood_keeps_what_its_assays_depend_on(self):
        kept = names(self.REAL, kinds=("cart",), readouts=())
        assert not {"P", "S", "H", "Q"} & set(kept["states"])
        assert {"E1", "M1", "X1", "Ts"} <= set(kept["states"])
        assert not {"kP", "kS", "sS", "Sbg", "P0", "sigma_sbcma", "h1"} & set(kept["parameters"])
        assert {"S", "P", "H"} <= set(names(self.REAL, kinds=KINDS, readouts=())["states"])

    def test_constants_of_exhaustion_vanish_with_it(self):
        variant = VARIANTS["no-exhaustion"]
        off = dict(variant.parameters) | {f"{name}_1": v for name, v in variant.product.items()}
        full = names(self.REAL, kinds=KINDS, readouts=())
        kept = names(self.REAL, fixed=off, kinds=KINDS, readouts=())
        gone = set(full["parameters"]) - set(kept["parameters"])
        assert {"kX", "bX", "bXQ", "fXQ", "fX0_1"} <= gone
        assert "qx1" in full["held"]
        assert "qx1" not in kept["held"]

    def test_host_dysfunction_vanishes_with_its_effects(self):
        model = bcma.build(2, bcma.OPTIONS["real"])
        off = dict(VARIANTS["no-dysfunction"].parameters)
        full = names(model, kinds=KINDS, readouts=())
        kept = names(model, fixed=off, kinds=KINDS, readouts=())
        assert {"bR", "bXQ", "sline", "sres"} <= set(full["parameters"]) - set(kept["parameters"])

    def test_fixed_numbers_are_no_parameters(self):
        fixed = {s: row.median for s, row in REAL_COHORT.items() if s != "rho"}
        kept = names(self.REAL, fixed=fixed, kinds=("cart",), readouts=())
        assert not set(fixed) & set(kept["parameters"])
        assert "rho" in kept["parameters"]

    def test_a_shorter_list_of_readouts_is_reported_in_its_order(self):
        assert names(self.REAL, readouts=("sbcma", "cart"))["readouts"] == ("sbcma", "cart")

    def test_codes_of_kinds_and_events_are_their_places(self):
        kept = names(self.REAL, kinds=("sbcma", "cart"), readouts=())
        assert kept["kinds"] == ("sbcma", "cart")
        assert kept["events"] == ("infusion_1",), "the assessment touches nothing that these depend on"

    def test_an_unknown_kind_is_told_with_those_that_there_are(self):
        with pytest.raises(ValueError, match=r"'bcma' has no observation \['flc'\].*cart.*transgene"):
            build(self.REAL, kinds=("flc",))


class TestFiles:
    def test_the_folder_can_be_chosen(self, folder):
        kernel = build(small.growth())
        assert Path(kernel.module.__file__).parent == folder
        assert files(folder) == {Path(kernel.module.__file__).name}
        assert kernel.module.__name__.startswith("reinfuse_generated.small_")

    def test_nothing_is_left_but_the_file(self, folder):
        build(small.growth())
        assert {path.suffix for path in folder.iterdir() if path.is_file()} == {".py"}

    def test_building_again_loads_the_same_module(self, folder):
        first, second = build(small.growth()), build(small.growth())
        assert first.module is second.module

    def test_a_changed_text_is_another_file(self, folder):
        made = [build(small.growth()), build(small.growth(extra=0.1)), build(small.growth(extra=0.2))]
        assert len({kernel.module.__name__ for kernel in made}) == 3
        assert len(files(folder)) == 3

    @pytest.mark.parametrize(
        "change",
        [
            {"start": lambda p: ({"N": 2.0 * p.n0, "W": 0.0}, {"speed": 1.0})},
            {"events": {"cut": lambda y, h, p: ({"N": y.N * p.share}, {})}},
            {"events": {}},
            {"readouts": lambda t, y, h, p: {"N": 2.0 * y.N, "W": y.W, "speed": h.speed, "t": t}},
            {"states": (State("N", "cells", log=False), State("W", "-", log=False))},
        ],
        ids=["start", "event", "no event", "read-out", "scale of a state"],
    )
    def test_any_part_of_the_text_counts(self, folder, change):
        build(small.growth())
        build(replace(small.growth(), **change))
        assert len(files(folder)) == 2

    def test_purposes_have_files_of_their_own(self, folder):
        build(small.growth())
        build(small.growth(), fixed={"r": 0.7})
        build(small.growth(), readouts=("N",))
        assert len(files(folder)) == 3

    def test_two_models_never_share_a_name(self, folder):
        one, other = build(small.growth("one")), build(small.growth("other"))
        assert one.module.__name__ != other.module.__name__
        assert len(files(folder)) == 2

    def test_all_models_share_the_solvers(self, folder):
        one, other = build(small.growth("one")), build(small.growth("other"))
        assert one.solver is other.solver
        build(small.growth(), method="vern7")
        assert len(solvers(folder)) == 2

    @pytest.mark.parametrize("part", [*builder.COMPILED_IN, *builder.SOLVERS])
    def test_an_edit_of_what_is_compiled_in_makes_new_files(self, folder, tmp_path, monkeypatch, part):
        kernels = tmp_path / "copy"
        kernels.mkdir()
        for path in builder.KERNELS.glob("*.py"):
            (kernels / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(builder, "KERNELS", kernels)
        build(small.growth())
        text = (kernels / f"{part}.py").read_text(encoding="utf-8")
        (kernels / f"{part}.py").write_text(text + "\nEDITED = 1\n", encoding="utf-8")
        build(small.growth())
        assert len(solvers(folder)) == 2
        assert len(files(folder)) == (2 if part in builder.COMPILED_IN else 1)

    def test_an_edit_of_a_method_or_a_density_makes_new_solvers(self, folder, monkeypatch):
        build(small.growth())
        method = METHODS["tsit5"]
        other = replace(method, dense=method.dense * (1.0 + 1e-15))
        monkeypatch.setitem(METHODS, "tsit5", other)
        build(small.growth())
        assert len(solvers(folder)) == 2
        monkeypatch.setitem(DENSITIES, Family.QUANTIFIED, lambda location, scale, value: value - location)
        build(small.growth())
        assert (len(solvers(folder)), len(files(folder))) == (3, 1)

    def test_an_unwritable_folder_falls_back_to_the_users_cache(self, tmp_path, monkeypatch):
        blocked = tmp_path / "a file"
        blocked.write_text("", encoding="utf-8")
        monkeypatch.setenv("REINFUSE_CACHE", str(blocked))
        monkeypatch.setattr(builder, "KERNELS", blocked)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert builder._folder() == tmp_path / "cache" / "reinfuse"

    def test_no_folder_at_all_says_what_to_set(self, tmp_path, monkeypatch):
        blocked = tmp_path / "a file"
        blocked.write_text("", encoding="utf-8")
        monkeypatch.setenv("REINFUSE_CACHE", str(blocked))
        monkeypatch.setattr(builder, "KERNELS", blocked)
        monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
        monkeypatch.setattr(builder.tempfile, "gettempdir", lambda: str(blocked))
        with pytest.raises(OSError, match=r"no writable folder.*a file.*REINFUSE_CACHE"):
            builder._folder()


SECOND_PROCESS = """
import json, sys
from tests.model import small_models as small
found = small.simulate([0.0, 1.0, 5.0])
kernel = small.compiled()
misses = {name: len(f.stats.cache_misses) for name, f in vars(kernel.solver).items() if hasattr(f, "stats")}
hits = {name: f.cache_hits for name, f in vars(kernel.module).items() if hasattr(f, "cache_hits")}
files = [kernel.module.__file__, kernel.solver.__file__]
json.dump({"N": found.N.tolist(), "misses": misses, "hits": hits, "files": files}, sys.stdout)
"""


def test_a_second_process_compiles_nothing():
    wanted = small.simulate([0.0, 1.0, 5.0])  # compiled or loaded here
    done = subprocess.run(
        [sys.executable, "-c", SECOND_PROCESS],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env=os.environ,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kernel = small.compiled()
    assert found["files"] == [kernel.module.__file__, kernel.solver.__file__]
    assert {"simulate", "forward"} <= set(found["misses"])
    assert set(found["misses"].values()) == {0}
    assert found["hits"] == dict.fromkeys(FUNCTIONS, 1)
    np.testing.assert_array_equal(found["N"], wanted.N)


class TestGeneratedText:
    def test_it_says_what_it_is(self):
        text = Path(small.compiled().module.__file__).read_text(encoding="utf-8")
        assert text.startswith('"""Generated by reinfuse: the equations of model \'small\'; do not edit.')
        assert "# states: N, W" in text
        assert "# parameters: K, a, c, faster, n0, r, share" in text

    def test_what_is_constant_between_events_is_computed_once(self):
        source, _ = generate(Trace(small.growth(), {}), (), None)
        rates = source.split("def rates(")[1].split("@model_function")[0]
        assert "load(c, 0 * WIDTH)" in rates
        assert "p[" not in rates
        assert "h[" not in rates
        assert rates.count("lane_exp") == 2, "one for exp(y), one for exp(-t)"

    def test_a_model_without_held_values_or_events_builds(self):
        plain = OdeModel(
            "plain",
            (State("x", "-", log=False),),
            (),
            lambda p: ({"x": 1.0}, {}),
            lambda t, y, h, p: {"x": -p.k * y.x},
            lambda t, y, h, p: {"x": y.x},
        )
        kept = names(plain)
        assert (kept["states"], kept["held"], kept["events"], kept["parameters"]) == (("x",), (), (), ("k",))
