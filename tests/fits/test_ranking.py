"""Runs beside one another: what is refused, who wins, when it is a tie, and because of whom."""

import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from reinfuse.fits import ranking
from reinfuse.fits.comparison import LeftOut
from reinfuse.fits.influential import Outcome
from reinfuse.fits.ranking import Entry, gather, is_tie, names_of, rank
from reinfuse.model.errors import ReinfuseError

from . import fake_run


def entry(name, elpd, *, k=None, mcse=0.05, how=None, doubtful=None, converged=True) -> Entry:
    elpd = np.asarray(elpd, dtype=float)
    n = elpd.size
    from reinfuse.fits.diagnosis.convergence import diagnose

    fake = fake_run.make(n_patients=3, draws=500, chains=4)
    diagnostics = replace(diagnose(fake.tree), converged=converged)
    return Entry(
        name=name,
        variant=f"variant of {name}",
        model="bcma",
        patients=tuple(f"P{i}" for i in range(n)),
        left=LeftOut(elpd, np.full(n, 0.3) if k is None else np.asarray(k), np.full(n, mcse), elpd + 0.4),
        how=("weights",) * n if how is None else how,
        doubtful=np.zeros(n, bool) if doubtful is None else doubtful,
        diagnostics=diagnostics,
    )


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(1)
    base = -8.0 + rng.standard_normal(40)
    worse = base - 0.5 + 0.1 * rng.standard_normal(40)
    worse[[3, 9]] -= 5.0
    return entry("good", base), entry("bad", worse)


class TestRank:
    def test_the_best_comes_first_and_differences_are_from_it(self, pair):
        good, bad = pair
        table = rank([bad, good]).table
        assert table["run"].tolist() == ["good", "bad"]
        away = bad.left.elpd - good.left.elpd
        assert table["difference"].tolist() == pytest.approx([0.0, away.sum()])
        assert table["se_difference"].tolist() == pytest.approx([0.0, np.sqrt(40) * away.std(ddof=1)])
        assert table["mcse_difference"][1] == pytest.approx(0.05 * np.sqrt(80))
        assert table["p_loo"].tolist() == pytest.approx([16.0, 16.0])
        assert table["tie"].tolist() == [False, False]

    def test_those_who_make_the_difference_are_named(self, pair):
        found = rank(pair)
        assert {name for name, _ in found.drivers["bad"][:2]} == {"P3", "P9"}
        assert len(found.drivers["bad"]) == ranking.TOP
        assert any("good predicts patients better than bad" in sentence for sentence in found.words)
        assert any("comes from P3" in sentence or "comes from P9" in sentence for sentence in found.words)

    def test_weights_are_those_of_the_closed_form(self):
        """Stacking of a model that is better for all takes it alone; of two that divide the patients, both."""
        one = np.full(20, -3.0)
        alone = rank([entry("a", one), entry("b", one - 1.0)]).table.set_index("run")
        assert alone["weight_stacking"].tolist() == pytest.approx([1.0, 0.0], abs=1e-3)
        halves = np.where(np.arange(20) < 10, -1.0, -6.0)
        shared = rank([entry("a", halves), entry("b", halves[::-1])]).table.set_index("run")
        assert shared["weight_stacking"].to_numpy() == pytest.approx(0.5, abs=0.01)
        assert shared["weight_pseudo_bma"].sum() == pytest.approx(1.0)

    @pytest.mark.parametrize(
        ("difference", "se", "tie"),
        [(-3.9, 0.1, True), (-4.1, 0.1, False), (-20.0, 11.0, True), (-20.0, 9.0, False), (0.0, 0.0, True)],
    )
    def test_a_tie_is_small_or_uncertain(self, difference, se, tie):
        assert is_tie(difference, se) is tie

    def test_a_tie_is_called_one(self):
        rng = np.random.default_rng(2)
        base = -8.0 + rng.standard_normal(30)
        found = rank([entry("a", base), entry("b", base + 0.3 * rng.standard_normal(30))])
        assert found.table["tie"].tolist() == [False, True]
        assert any("tie" in sentence and "carry both" in sentence for sentence in found.words)

    def test_what_is_not_to_be_trusted_is_said(self):
        base = np.full(12, -5.0)
        found = rank([entry("a", base, doubtful=np.arange(12) < 3), entry("b", base - 1.0, converged=False)])
        row = found.table.set_index("run").loc["a"]
        assert row["patients_doubtful"] == 3
        assert any("3 patients could not be left out" in sentence for sentence in found.words)
        assert any("b did not converge" in sentence for sentence in found.words)

    def test_refits_are_counted(self):
        base = np.full(4, -5.0)
        one = entry("a", base, k=[0.2, np.nan, 0.2, 0.2], how=("weights", "refit", "weights", "weights"))
        assert rank([one, entry("b", base - 2.0)]).table["refitted"].tolist() == [1, 0]

    def test_a_large_monte_carlo_error_is_said(self):
        base = np.full(40, -5.0)
        found = rank([entry("a", base, mcse=1.0), entry("b", base - 0.2, mcse=1.0)])
        assert any("is not small against it" in sentence for sentence in found.words)

    def test_an_unknown_monte_carlo_error_is_said(self):
        base = np.full(40, -5.0)
        unknown = entry("a", base)
        unknown.left.mcse[3] = np.nan
        found = rank([unknown, entry("b", base - 0.2)])
        assert any("error of that difference is not known" in sentence for sentence in found.words)
        assert not any("is not small against it" in sentence for sentence in found.words)

    def test_patients_must_be_the_same(self, pair):
        other = replace(pair[1], patients=tuple(f"Q{i}" for i in range(40)))
        with pytest.raises(ReinfuseError, match="have different patients"):
            rank([pair[0], other])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    fake = fake_run.make(n_patients=4, draws=60)
    one = fake_run.write(folder / "one", fake=fake)
    fake_run.write(folder / "two", fake=fake)
    fake_run.write(folder / "one" / "variants" / "null", fake=fake).update_provenance(variant="neither")
    fake_run.write(folder / "other", fake=fake_run.make(n_patients=5, draws=60))
    return one.path.parent


class TestGather:
    def test_one_run_brings_its_variants(self, runs):
        found = gather([runs / "one"])
        assert names_of(found) == ["one", "null"]

    def test_one_run_without_variants_is_refused(self, runs):
        with pytest.raises(ReinfuseError, match="no variants were fitted beside it"):
            gather([runs / "two"])

    def test_another_cohort_is_refused_with_both_sums(self, runs):
        with pytest.raises(ReinfuseError, match=r"different cohorts \(SHA-256 [0-9a-f]{12}… and [0-9a-f]{12}…\)"):
            gather([runs / "one", runs / "other"])

    def test_the_same_run_twice_is_refused(self, runs):
        with pytest.raises(ReinfuseError, match="named twice"):
            gather([runs / "one", runs / "one" / ".." / "one"])

    def test_names_are_as_long_as_they_must_be(self, runs):
        same = [runs / "one" / "variants" / "null", runs / "two"]
        assert names_of(gather(same)) == ["null", "two"]


class TestStore:
    def test_what_was_found_is_not_done_again(self, tmp_path):
        store = ranking._Store(tmp_path, "abc")
        found = Outcome(-3.25, 0.1, float("nan"), "refit", 1.01)
        assert store.load("P1") is None
        store.save("P1", found)
        again = ranking._Store(tmp_path, "abc").load("P1")
        assert again is not None
        assert (again.elpd, again.mcse, again.how, again.rhat) == (-3.25, 0.1, "refit", 1.01)
        assert np.isnan(again.pareto_k)
        assert ranking._Store(tmp_path, "other draws").load("P1") is None
        (file,) = (tmp_path / "abc").iterdir()
        file.write_text("half a fi", encoding="utf-8")
        assert store.load("P1") is None
        assert "P1" not in file.name  # patients' IDs are no file names


def test_a_run_enters_with_what_its_file_holds(tmp_path):
    fake = fake_run.make(n_patients=4, draws=60)
    n = len(fake.patients)
    each = {"elpd": np.arange(n) - 9.0, "pareto_k": np.full(n, 0.2), "mcse": np.full(n, 0.1), "lpd": np.arange(n) - 8.0}
    fake.tree["integrated"] = xr.DataTree(
        xr.Dataset({name: (("subject",), x) for name, x in each.items()}, coords={"subject": fake.patients})
    )
    found = ranking.enter(fake_run.write(tmp_path / "run", fake=fake), "it", effort="weights")
    np.testing.assert_array_equal(found.left.elpd, each["elpd"])
    assert found.how == ("weights",) * n
    assert not found.doubtful.any()
    assert found.variant == "full"
    assert json.dumps(found.diagnostics.to_json())


def test_the_figure_names_those_who_make_the_difference():
    from reinfuse.fits.figures.comparison import differences_by_patient

    difference = np.linspace(-0.1, 0.1, 30)
    difference[[2, 20]] = [-3.0, 2.0]
    doubtful = np.zeros(30, bool)
    doubtful[5] = True
    figure = differences_by_patient(
        patients=[f"P{i}" for i in range(30)],
        differences={"b": difference},
        errors={"b": np.full(30, 0.05)},
        doubtful={"b": doubtful},
        best="a",
    )
    (panel,) = figure.axes
    named = {text.get_text() for text in panel.texts}
    assert {"P2", "P20"} <= named
    assert len(named) == 5
    assert panel.get_title(loc="left").startswith(f"b less a: {difference.sum():+.1f} in all")
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("not to be trusted" in text for text in shown)
