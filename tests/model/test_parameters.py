import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reinfuse.model import parameters as pm
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.products import PRODUCTS

LOGIT = {"qLD", "bK", "Q0", "xi", "feng"}


def table_of_the_design(notes: Path) -> dict[str, tuple[float, float, float, str]]:
    rows = {}
    for line in notes.read_text(encoding="utf-8").splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) == 7 and re.fullmatch(r"`\w+`", cells[0]):
            symbol = cells[0].strip("`")
            rows[symbol] = (float(cells[3]), float(cells[4]), float(cells[5]), cells[2])
    return rows


@pytest.mark.shared
def test_reference_is_the_table_of_the_design_number_by_number(shared):
    notes = shared / "design" / "science.md"
    if not notes.is_file():
        pytest.skip(f"no design notes: {notes.name} is missing")
    design = table_of_the_design(notes)
    assert len(design) == 46
    for symbol, (median, log_sd, iiv, unit) in design.items():
        row = pm.REFERENCE[symbol]
        assert (row.median, row.log_sd, row.iiv) == (median, log_sd, iiv), symbol
        assert row.unit == unit, symbol
    assert set(pm.REFERENCE) - set(design) == {
        "qref", "fXQ", "VT", "hD", "sigma_transgene", "sigma_sbcma", "sigma_mprotein"
    }  # fmt: skip


# A few rows by hand, so that a checkout without the design notes still notices a slip of the keyboard.
@pytest.mark.parametrize(
    ("symbol", "median", "log_sd", "iiv"),
    [
        ("rho", 1.17, 0.2, 0.11),
        ("KA", 1e9, 1.0, 0.6),
        ("r", 0.013, 0.4, 0.6),
        ("fr", 1e-10, 2.5, 3.0),
        ("Q0", 0.55, 0.3, 0.35),
        ("alA", 0.03, 0.9, 1.2),
        ("feng", 0.3, 0.5, 0.5),
    ],
)
def test_reference_rows(symbol, median, log_sd, iiv):
    row = pm.REFERENCE[symbol]
    assert (row.median, row.log_sd, row.iiv) == (median, log_sd, iiv)


@pytest.mark.parametrize(
    ("symbol", "median", "iiv"),
    [
        ("rho", 1.26, 0.27), ("tg", 8.0, 0.2), ("hg", 8.6, 0.0), ("dE", 0.19, 0.15), ("eps", 0.06, 0.9),
        ("dM", 0.024, 1.0), ("k", 0.92, 0.3), ("KE", 84.0, 1.3), ("B0", 6.2e10, 1.6), ("r", 0.014, 0.3),
        ("Sbg", 2.3, 0.9), ("kS", 0.19, 0.1), ("lag", 2.3, 0.0), ("sS", 125.0, 0.4), ("Bc", 1.7e10, 0.0),
        ("h1", 0.05, 0.0), ("wB", 0.5, 0.0), ("cG", 0.3, 0.0), ("wG", 0.15, 0.0), ("gT", 1.0, 0.27),
        ("aT", 9.1, 0.0), ("bT", 0.74, 0.0), ("dlt", 0.65, 0.0), ("sigma_cart", 0.71, 0.0),
    ],
)  # fmt: skip
def test_real_cohort_rows(symbol, median, iiv):
    row = pm.REAL_COHORT[symbol]
    assert (row.median, row.iiv) == (median, iiv)
    assert row.tag == "CAL"
    assert "not converged" in row.source
    assert "independent evidence" in row.source


def test_real_cohort_changes_no_other_row_and_keeps_prior_widths():
    moved = {s for s, row in pm.REFERENCE.items() if pm.REAL_COHORT[s].median != row.median}
    assert moved == {
        "rho", "tg", "hg", "dE", "eps", "dM", "k", "KE", "B0", "r", "Sbg", "kS",
        "sigma_transgene", "sigma_sbcma",
    }  # fmt: skip
    for symbol, row in pm.REFERENCE.items():
        assert pm.REAL_COHORT[symbol].log_sd == row.log_sd, symbol
        assert pm.REAL_COHORT[symbol].unit == row.unit, symbol


@pytest.mark.parametrize("name", ["reference", "real"])
def test_every_row_is_usable_and_says_where_it_comes_from(name):
    for symbol, row in pm.table(name).items():
        assert row.symbol == symbol
        assert row.meaning
        assert row.unit
        assert row.tag in pm.TAGS
        assert row.tag in row.source, f"{symbol}: the source does not say what its tag says"
        assert (row.transform == "logit") == (symbol in LOGIT | {"qref", "fXQ"})
        assert row.iiv_log_sd > 0


def test_recalled_facts_are_marked_as_such():
    for row in pm.REAL_COHORT.values():
        if row.tag == "RECALLED":
            assert "RECALLED" in row.source
    # facts of the design notes that nobody has read in a source
    for symbol, fact in [("kA", "45 to 50"), ("kP", "IgA"), ("KB", "1e13"), ("B0", "1e12"), ("VT", "2 %")]:
        source = pm.REFERENCE[symbol].source
        assert fact in source
        assert "RECALLED" in source[source.index(fact) :]


def test_tables_cannot_be_changed():
    with pytest.raises(TypeError):
        pm.REFERENCE["rho"] = pm.REFERENCE["tg"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        pm.REFERENCE["rho"].median = 2.0  # type: ignore[misc]


def test_median_gives_plain_numbers():
    numbers = pm.median("real")
    assert numbers["rho"] == 1.26
    assert set(numbers) == set(pm.REAL_COHORT)
    numbers["rho"] = 0.0
    assert pm.median("real")["rho"] == 1.26


def test_unknown_table_is_refused():
    with pytest.raises(ReinfuseError, match=r"'fantasy'; use one of reference, real"):
        pm.table("fantasy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transform": "sqrt"}, "unknown transform 'sqrt'"),
        ({"tag": "GUESS"}, "unknown tag 'GUESS'"),
        ({"log_sd": -0.1}, "log_sd is -0.1"),
        ({"iiv": float("nan")}, "iiv is nan"),
        ({"median": 0.0}, "log transform of 0.0"),
        ({"median": float("inf")}, "median is inf"),
        ({"transform": "logit"}, "between 0 and 1"),
    ],
)
def test_a_bad_row_is_refused(change, message):
    good = dict(
        symbol="z",
        meaning="m",
        unit="-",
        median=2.0,
        log_sd=0.1,
        iiv=0.1,
        transform="log",
        tag="CAL",
        source="s",
    )
    pm.Parameter(**good)  # type: ignore[arg-type]
    with pytest.raises(ReinfuseError, match=message):
        pm.Parameter(**{**good, **change})  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- transforms

scaled = st.floats(-30, 30)


@given(st.lists(scaled, min_size=1, max_size=5), st.sampled_from(pm.TRANSFORMS))
def test_transforms_are_inverse(values, transform):
    there = pm.from_transformed(values, transform=transform)
    back = pm.to_transformed(there, transform=transform) if transform != "logit" or np.all(there < 1) else values
    tolerance = 1e-9 if transform != "logit" else 1e-3  # 1 - p has lost its digits at logit 30
    np.testing.assert_allclose(back, values, atol=tolerance, rtol=tolerance)


@given(st.floats(-700, 700))
def test_logit_is_symmetric_and_stays_inside(x):
    p, q = pm.from_transformed([x, -x], transform="logit")
    assert 0 <= p <= 1
    assert p + q == pytest.approx(1.0, abs=1e-12)


def test_known_values_of_the_transforms():
    assert pm.to_transformed(np.e, transform="log") == pytest.approx(1.0)
    assert pm.to_transformed(0.75, transform="logit") == pytest.approx(np.log(3.0))
    assert pm.to_transformed(-2.5, transform="identity") == -2.5


def test_transforms_by_column():
    x = np.array([[1.0, 0.5, 3.0], [np.e, 0.75, -1.0]])
    out = pm.to_transformed(x, transform=["log", "logit", "identity"])
    np.testing.assert_allclose(out, [[0.0, 0.0, 3.0], [1.0, np.log(3.0), -1.0]], atol=1e-15)
    np.testing.assert_allclose(pm.from_transformed(out, transform=["log", "logit", "identity"]), x)
    assert x[0, 0] == 1.0, "the input was overwritten"


def test_nan_marks_a_missing_value_and_passes():
    assert np.isnan(pm.to_transformed([np.nan, 1.0], transform="log")[0])


@pytest.mark.parametrize(
    ("value", "transform", "message"),
    [
        (0.0, "log", "log transform of 0.0; the value must be > 0"),
        ([0.5, 1.0], "logit", "logit transform of 1.0"),
        (1.0, "cube", "unknown transform 'cube'"),
        ([1.0, 2.0], ["log"], "1 transforms for shape"),
        (1.0, ["log"], "1 transforms for shape"),
    ],
)
def test_bad_transforms_are_refused(value, transform, message):
    with pytest.raises(ReinfuseError, match=message):
        pm.to_transformed(value, transform=transform)


# ------------------------------------------------------------------------------- effects, assays, variants


def test_product_effects_replace_a_field_of_a_known_product():
    assert set(pm.PRODUCT_EFFECTS) == {f"{p}:cilta-cel" for p in ("rho", "tg", "feng", "B0", "KE")}
    for label, effect in pm.PRODUCT_EFFECTS.items():
        assert effect.label == label
        assert effect.product in PRODUCTS
        assert effect.parameter in pm.REAL_COHORT
        assert effect.sd > 0
        assert effect.tag in effect.source
        if effect.product_field is not None:
            reference = getattr(PRODUCTS[effect.reference], effect.product_field)
            assert reference == 1.0, "a log multiplier needs a reference of 1"


def test_product_effects_have_the_agreed_centres():
    means = {e.parameter: (np.exp(e.mean), e.sd) for e in pm.PRODUCT_EFFECTS.values()}
    for parameter, centre, sd in [
        ("rho", 1.1, 0.3),
        ("tg", 1.2, 0.5),
        ("feng", 1, 0.5),
        ("B0", 1, 0.7),
        ("KE", 0.15, 0.8),
    ]:
        assert means[parameter] == (pytest.approx(centre), sd)


def test_assay_of_a_product():
    for name, level, level_sd, power, power_sd in [
        ("ide-cel", 9.1, 0.3, 0.74, 0.05),
        ("cilta-cel", 8.1, 0.5, 0.57, 0.08),
    ]:
        assay = pm.PRODUCT_ASSAY[name]
        assert (assay["aT"].median, assay["aT"].log_sd) == (level, level_sd)
        assert (assay["bT"].median, assay["bT"].log_sd) == (power, power_sd)
        assert assay["aT"].transform == assay["bT"].transform == "identity"
        assert name in assay["aT"].meaning


def test_random_effects_vary_between_patients():
    for symbol in pm.RANDOM_EFFECTS:
        assert pm.REAL_COHORT[symbol].iiv > 0, symbol


def test_variants_hold_known_parameters_and_say_what_they_mean():
    assert set(pm.VARIANTS) == {"full", "no-dysfunction", "no-exhaustion", "neither"}
    off = [pm.VARIANTS[name] for name in ("no-dysfunction", "no-exhaustion")]
    assert pm.VARIANTS["neither"].parameters == {**off[0].parameters, **off[1].parameters}
    assert pm.VARIANTS["neither"].product == off[1].product
    assert not pm.VARIANTS["full"].parameters
    assert dict(pm.VARIANTS["no-dysfunction"].parameters) == dict.fromkeys(("bR", "bXQ", "sline", "sres"), 0.0)
    assert dict(pm.VARIANTS["no-exhaustion"].parameters) == {"kX": 0.0, "fXQ": 0.0}
    assert dict(pm.VARIANTS["no-exhaustion"].product) == {"fX0": 0.0}
    for name, variant in pm.VARIANTS.items():
        assert set(variant.parameters) <= set(pm.REFERENCE)
        assert variant.describe().startswith(f"{name}: ")
        for symbol in variant.parameters:
            assert f"{symbol} = 0" in variant.describe()
