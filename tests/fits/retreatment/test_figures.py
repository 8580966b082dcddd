import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from reinfuse.fits.figures import retreatment as draw
from reinfuse.fits.retreatment import anchor, survival, virtual_trials
from reinfuse.fits.retreatment.statistics import trial_counts
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

GROUPS = ("non-responder", "early-relapse", "intermediate", "durable")
CLASSES = ("PD", "SD", "MR", "PR", "VGPR", "CR")


def table(scenario, n=120, seed=1):
    """Outcomes of one scenario as the engine gives them."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) % 4
    rows = pd.DataFrame({"scenario": scenario, "patient": np.arange(n), "draw": np.arange(n) % 20})
    rows["group"] = pd.Categorical(np.array(GROUPS)[group])
    rows["failed"], rows["infused"], rows["antigen_loss"] = False, True, rng.random(n) < 0.1
    for course, scale in ((1, 300.0), (2, 500.0)):
        rows[f"best_{course}"] = pd.Categorical(np.array(CLASSES)[np.minimum(group + rng.integers(0, 3, n), 5)])
        rows[f"evaluable_{course}"] = True
        rows[f"pfs_days_{course}"] = np.minimum(rng.exponential(scale, n) * (1 + group), 1826.25)
    rows["pfs_event_2"] = np.where(rows["pfs_days_2"] < 1826.25, "progression", "none")
    rows["dor_days_1"] = np.where(group > 0, rows["pfs_days_1"], np.nan)
    rows["mrd5_2"] = rng.random(n) < 0.5
    rows["infusion_day"] = rows["pfs_days_1"] + 60.0
    return rows


@pytest.fixture(scope="module")
def outcomes():
    return pd.concat([table("two"), table("other", seed=2)])


@pytest.fixture(scope="module")
def two(outcomes):
    return outcomes[outcomes["scenario"] == "two"]


def texts(figure):
    return {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def test_the_swimmer_plot_has_two_bars_per_patient_in_the_colours_of_their_responses(two):
    figure = draw.swimmer(two, at_most=20)
    bars = figure.axes[0].patches
    assert 15 <= len(bars) / 2 <= 25
    few = two.head(3)
    bars = draw.swimmer(few).axes[0].patches
    months = sorted([*few["pfs_days_1"] / DAYS_PER_MONTH, *few["pfs_days_2"] / DAYS_PER_MONTH])
    np.testing.assert_allclose(sorted(bar.get_width() for bar in bars), months)


def test_every_group_keeps_a_swimmer(two):
    shown = draw._thinned(two, 12)
    assert set(shown["group"]) == set(two["group"])


def test_survival_curves_are_the_kaplan_meier_estimates(outcomes, two):
    figure = draw.survival({"two": two, "few": two.head(3)}, months=60)
    lines = [line for line in figure.axes[0].lines if line.get_label() == "two"]
    months = two["pfs_days_2"].to_numpy() / DAYS_PER_MONTH
    at_year = np.interp(12.0, *lines[0].get_data())
    assert lines[0].get_drawstyle() == "steps-post"
    assert at_year == pytest.approx((months > 12).mean(), abs=0.03)
    assert "few" not in texts(figure), "three patients give no curve"
    assert "120" in texts(figure), "the number at risk at the start"
    with pytest.raises(ReinfuseError, match="--patients"):
        draw.survival({"few": two.head(3)})


def test_response_bars_fill_their_row(outcomes):
    figure = draw.best_response(outcomes, groups=("durable", "non-responder"))
    panel = figure.axes[0]
    assert panel.get_title(loc="left") == "two"
    width = sum(bar.get_width() for bar in panel.patches if round(bar.get_y() + bar.get_height() / 2) == 0)
    assert width == pytest.approx(1)
    with pytest.raises(ReinfuseError, match="nothing to draw"):
        draw.best_response(outcomes.assign(evaluable_2=False), groups=())


def test_the_study_is_drawn_with_its_exact_intervals(two):
    table = anchor.compare(two, "two")
    counts = [trial_counts(*pair, anchor.SIZE) for pair in anchor.simulated_outcomes(two)]
    figure = draw.anchor(table, counts)
    shares, bars = figure.axes[0], figure.axes[1]
    np.testing.assert_allclose(shares.lines[0].get_xdata(), [0.6915, 1.0], atol=1e-4)
    assert [bar.get_height() for bar in bars.patches] == pytest.approx(list(counts[0]))
    assert {"study, 10/10", "model, all who progressed"} <= texts(figure)
    with_responders = draw.anchor(table, counts, responders=anchor.compare(two, "two", responders=True))
    assert "model, first responders" in texts(with_responders)


def test_no_patients_give_no_swimmer_plot(two):
    with pytest.raises(ReinfuseError, match="no patients"):
        draw.swimmer(two.head(0))


def test_a_third_course_is_a_third_bar(two):
    few = two.head(3).assign(best_3="CR", pfs_days_3=[100.0, np.nan, 50.0], pfs_event_3="progression")
    day = few["infusion_day"] + few["pfs_days_2"] + 90.0
    figure = draw.swimmer(few.assign(evaluable_3=True, infusion_day_3=day.where(few["pfs_days_3"].notna())))
    bars = figure.axes[0].patches
    assert len(bars) == 3 + 3 + 2
    third = {round(bar.get_x() * DAYS_PER_MONTH, 3) for bar in bars if bar.get_width() < 100.1 / DAYS_PER_MONTH}
    assert third >= set(day[few["pfs_days_3"].notna()].round(3)), "on the day it was given"
    assert figure.axes[0].get_xlim()[1] > (day.iloc[[0, 2]] + [100.0, 50.0]).max() / DAYS_PER_MONTH
    assert "later infusion" in texts(figure)


def test_stringent_cr_is_drawn_where_the_model_tells_it(two):
    assert "sCR" not in texts(draw.swimmer(two.head(8)))
    with_it = two.head(8).assign(best_2="SCR")
    assert "sCR" in texts(draw.swimmer(with_it))
    figure = draw.best_response(with_it, groups=())
    assert sum(bar.get_width() for bar in figure.axes[0].patches) == pytest.approx(1)


def test_one_or_two_curves_have_bands_that_never_rise(two):
    pair = {name: two[two["group"] == name] for name in ("early-relapse", "durable")}
    bands = draw.survival(pair, months=60).axes[0].collections
    assert len(bands) == 2
    for band in bands:
        corners = band.get_paths()[0].vertices
        grid = np.unique(corners[:, 0])
        for edge in (np.min, np.max):
            heights = [edge(corners[corners[:, 0] == month, 1]) for month in grid]
            assert (np.diff(heights) <= 1e-12).all()
    three = draw.survival({**pair, "all": two}, months=60).axes[0].collections
    assert len(three) == 1 + 2, "one band, and bars of the two others"


def test_the_benefit_map_brackets_what_is_not_told_from_nothing():
    value = np.array([[1.0, -0.2, np.nan], [2.0, 0.5, -3.0]])
    ask = {"waiting_days": (30, 60, 90), "doses": (1e8, 4e8)}
    figure = draw.benefit_map(value, error=np.full((2, 3), 0.2), **ask)
    assert {"1", "(-0.2)", "2", "0.5", "-3", "1e8", "4e8", "30", "90"} <= texts(figure)
    image = figure.axes[0].images[0]
    assert image.get_clim() == (-3.0, 3.0), "nothing is in the middle of the colours"
    assert "(-0.2)" not in texts(draw.benefit_map(value, **ask))
    with pytest.raises(ReinfuseError, match="shape"):
        draw.benefit_map(value.T, **ask)
    with pytest.raises(ReinfuseError, match="finite"):
        draw.benefit_map(np.full((2, 3), np.nan), **ask)


def test_paired_differences_count_who_gains_and_who_loses():
    figures = pd.DataFrame({"value": [2.0], "low": [1.0], "high": [3.0]}, index=["durable"])
    differences = {"durable": np.array([5.0, 5, 0, -2]), "nobody": np.array([]), "all": np.zeros(7)}
    figure = draw.paired_differences(differences, table=figures)
    axes = figure.axes[0]
    assert {"50% gain", "25% lose", "0% gain", "0% lose"} <= texts(figure)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["durable\nn 4", "all\nn 7"]
    assert [1.0, 3.0] in [list(line.get_xdata()) for line in axes.lines]
    assert axes.get_xlim()[0] == -axes.get_xlim()[1]
    with pytest.raises(ReinfuseError, match="no group"):
        draw.paired_differences({"all": np.array([])})


def test_no_bar_of_differences_lies_between_two_visits():
    months = 28 / 30.4375 * np.random.default_rng(0).integers(-22, 23, 4000)
    axes = draw.paired_differences({"all": months}, step=28 / 30.4375).axes[0]
    bars = [bar for bar in axes.patches if bar.get_width() < 2 and bar.get_height() <= 0]
    edges = np.array([bar.get_x() for bar in bars])
    assert 40 <= len(bars) <= 61
    assert np.count_nonzero([bar.get_height() for bar in bars]) >= 44, "every visit within reach has its bar"
    assert np.diff(edges) == pytest.approx(28 / 30.4375)


def trajectory(name="durable", products=2):
    days = np.arange(400.0)
    return draw.Trajectory(
        name=name,
        days=days,
        burden=1e11 * np.exp(-days / 20),
        cart=np.tile(500 * np.exp(-days / 30), (products, 1)),
        infusions=(0.0, 200.0),
        progressions=(150.0,),
    )


def test_trajectories_are_drawn_as_given_and_cut_below_one_cell():
    figure = draw.trajectories([trajectory(), trajectory("early")], products=("ide-cel", "cilta-cel"), mrd_cells=1e7)
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == ["durable", "early"]
    burden = panels[0].lines[0]
    np.testing.assert_allclose(burden.get_xdata(), np.arange(400) / DAYS_PER_MONTH)
    expected = 1e11 * np.exp(-np.arange(400) / 20)
    np.testing.assert_allclose(burden.get_ydata(), np.where(expected >= 1, expected, np.nan))
    marked = [line for line in panels[0].lines if line.get_marker() == "X"]
    assert marked[0].get_xdata()[0] == pytest.approx(150 / DAYS_PER_MONTH)
    assert marked[0].get_ydata()[0] == pytest.approx(1e11 * np.exp(-150 / 20))
    assert {"CAR-T, ide-cel", "CAR-T, cilta-cel", "MRD-negative below"} <= texts(figure)
    with pytest.raises(ReinfuseError, match="at least one patient"):
        draw.trajectories([], products=("ide-cel",))
    with pytest.raises(ReinfuseError, match="durable"):
        draw.trajectories([trajectory(products=1)], products=("ide-cel", "cilta-cel"))


def test_the_waterfall_falls():
    best = ["CR", "PD", "NOT_EVALUABLE", "PR", "VGPR", "SD"]
    change = np.array([-1.0, 0.4, -0.5, -0.6, -0.95, np.nan])
    bars = draw.waterfall(best, change=change).axes[0].patches
    assert [bar.get_height() for bar in bars] == [0.4, -0.6, -0.95, -1.0], "of who has a class and a change"
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [draw.CLASS_COLOURS[c] for c in ("PD", "PR", "VGPR", "CR")]
    figure = draw.waterfall(best)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == sorted(heights)
    assert len(heights) == 5
    many = draw.waterfall(["PR"] * 30 + ["CR"] * 70, at_most=20)
    assert len(many.axes[0].patches) == 20
    assert any("of 100, taken evenly" in text for text in texts(many))
    with pytest.raises(ReinfuseError, match="nothing to draw"):
        draw.waterfall(["UNMEASURABLE"])
    with pytest.raises(ReinfuseError, match="as many"):
        draw.waterfall(best, change=change[:2])


def test_the_spread_of_virtual_trials_holds_every_trial(two):
    trials = virtual_trials.virtual_trials(
        survival.pairs_of(two), rng=np.random.default_rng(0), size=6, repeats=200, rmst_months=24.0
    )
    figure = draw.virtual_trials(trials, truth=(0.5, 4.0))
    left, right = figure.axes
    for axes in (left, right):
        assert sum(bar.get_height() for bar in axes.patches) == trials.p_value.size
    assert f"above 1 in {trials.wrong_way:.0%}, p < 0.05 in {trials.significant:.0%}" in texts(figure)
    assert any("What a study of 6 would find" in text for text in texts(figure))
    assert {"all virtual patients", "no difference"} <= texts(figure)
    with pytest.raises(ReinfuseError, match="nothing to draw"):
        draw.virtual_trials(virtual_trials.virtual_trials(
            survival.pairs_of(two.assign(pfs_days_1=1000.0, dor_days_1=1000.0)), rng=np.random.default_rng(0)
        ))  # fmt: skip
