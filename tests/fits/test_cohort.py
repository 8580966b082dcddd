"""Every fault of a cohort file is found where it is; what is no fault is read to the right values."""

import io
import math
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reinfuse.fits.cohort import (
    Cohort,
    CohortError,
    cohort_from_frame,
    read_cohort,
    summarise,
    write_cohort,
)
from reinfuse.fits.cohort_summary import kaplan_meier_median
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.products import PRODUCTS, Product
from reinfuse.scripts import check
from reinfuse.scripts._shell import guarded

HEADER = "ID,TIME,EVID,AMT,PRODUCT,LD,DVID,DV,CENS,LLOQ,age"

# line number in the file: row (the header is line 1)
ROWS = {
    2: "P1,-5,0,,,,sbcma,300,0,1.1,61",
    3: "P1,0,1,4.5e8,ide-cel,1,,,,,61",
    4: "P1,7,0,,,,transgene,120000,0,50,61",
    5: "P1,7,0,,,,cart,80.5,0,0.3,61",
    6: "P1,100,0,,,,cart,0.3,1,0.3,61",
    7: "P1,150,0,,,,progression,1,,,61",
    8: "P1,180,0,,,,sbcma,900,0,1.1,61",
    9: "P1,200,1,,cilta-cel,0.5,,,,,61",
    10: "P1,207,0,,,,cart,12,0,,61",
    11: "P1,400,0,,,,death,0,,,61",
    12: "P2,0,1,,ide-cel,,,,,,",
    13: "P2,14,0,,,,mprotein,2.5,0,,55",
    14: "P2,14,0,,,,pd1,0,0,,",
    15: "P2,300,0,,,,progression,0,,,",
}


def text(changes=None, header=HEADER, rows=ROWS):
    """The small cohort as CSV with some lines replaced (None: removed)."""
    lines = {**rows, **(changes or {})}
    kept = [lines[number] for number in sorted(lines) if lines[number] is not None]
    return "\n".join([header, *kept]) + "\n"


def written(folder, content, name="cohort.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def faults_of(path):
    with pytest.raises(CohortError) as caught:
        read_cohort(path)
    assert all(fault.what and fault.remedy and fault.file == str(path) for fault in caught.value.faults)
    return caught.value.faults


def frame(content):
    return pd.read_csv(io.StringIO(content), dtype=str, keep_default_na=False)


class TestReading:
    def test_canonical_table(self, tmp_path):
        cohort = read_cohort(written(tmp_path, text()))
        table = cohort.table
        assert list(table.columns) == [
            *("ID", "TIME", "EVID", "AMT", "PRODUCT", "LD", "DVID", "DV", "CENS", "LLOQ", "LIMIT"),
            "age",
        ]
        kinds = {"EVID": "int64", "CENS": "int64", "ID": "str", "PRODUCT": "str", "DVID": "str"}
        assert {name: str(table[name].dtype) for name in table} == {name: kinds.get(name, "float64") for name in table}
        assert table["DV"].tolist()[2:5] == [120000.0, 80.5, 0.3]
        assert table["CENS"].tolist()[:5] == [0, 0, 0, 0, 1]
        assert cohort.patients == ["P1", "P2"]
        assert cohort.n_patients == 2
        assert cohort.name == "cohort.csv"
        assert cohort.sha256 == __import__("hashlib").sha256(text().encode()).hexdigest()

    def test_empty_dose_and_lymphodepletion_take_their_defaults(self, tmp_path):
        cohort = read_cohort(written(tmp_path, text()))
        infusions = cohort.infusions
        assert infusions["SLOT"].tolist() == [1, 2, 1]
        assert infusions["AMT"].tolist() == [4.5e8, PRODUCTS["cilta-cel"].dose, PRODUCTS["ide-cel"].dose]
        assert infusions["LD"].tolist() == [1.0, 0.5, 1.0]
        assert cohort.max_infusions == 2
        assert cohort.products == ["cilta-cel", "ide-cel"]

    def test_own_products(self, tmp_path):
        own = Product(
            name="my-cel",
            dose=1e8,
            fM0=0.1,
            fX0=0.1,
            immunogenicity=1,
            scale=100,
            scfv="mine",
            source="a test",
        )
        path = written(tmp_path, text().replace("ide-cel", "my-cel"))
        cohort = read_cohort(path, products={**PRODUCTS, "my-cel": own})
        assert cohort.infusions["AMT"].tolist() == [4.5e8, PRODUCTS["cilta-cel"].dose, 1e8]
        assert {fault.column for fault in faults_of(path)} == {"PRODUCT"}

    def test_an_empty_covariate_takes_the_patients_value(self, tmp_path):
        cohort = read_cohort(written(tmp_path, text()))
        assert cohort.covariates["age"].to_dict() == {"P1": 61.0, "P2": 55.0}
        assert cohort.table.loc[cohort.table["ID"] == "P2", "age"].tolist() == [55.0] * 4

    def test_a_covariate_of_words_stays_words(self, tmp_path):
        content = text().replace(",61\n", ",none\n").replace(",age", ",Bridging")
        covariates = read_cohort(written(tmp_path, content)).covariates
        assert covariates["bridging"].to_dict() == {"P1": "none", "P2": "55"}

    @pytest.mark.parametrize("name", ["ADDL", "ii", "Rate"])
    def test_doses_that_only_nonmem_would_give_are_no_covariate(self, tmp_path, name):
        content = text().replace(",age", f",{name}")
        with pytest.raises(CohortError, match="row of its own and remove"):
            read_cohort(written(tmp_path, content))
        none = content.replace(",61\n", ",0\n").replace(",55\n", ",\n")
        assert read_cohort(written(tmp_path, none)).covariates.shape == (2, 1)

    def test_no_covariates(self, tmp_path):
        cohort = cohort_from_frame(frame(text()).drop(columns="age"))
        assert cohort.covariates.shape == (2, 0)
        assert cohort.covariates.index.tolist() == ["P1", "P2"]

    def test_split_dose_is_one_infusion(self, tmp_path):
        halves = {3: "P1,0,1,2e8,ide-cel,,,,,,61\nP1,0.5,1,2.5e8,ide-cel,1,,,,,61"}
        split = read_cohort(written(tmp_path, text(halves)))
        whole = read_cohort(written(tmp_path, text()))
        pd.testing.assert_frame_equal(split.infusions, whole.infusions)

    def test_patients_are_sorted_by_number(self, tmp_path):
        content = text().replace("P1,", "P10,")
        assert read_cohort(written(tmp_path, content)).patients == ["P2", "P10"]

    @pytest.mark.parametrize(
        "change",
        [
            lambda t: t.replace("\n", "\r\n"),
            lambda t: "\ufeff" + t,
            lambda t: t.replace("ID,TIME,EVID", "id, Time ,evid"),
            lambda t: t.replace("ide-cel", "IDE-CEL").replace("sbcma", "sBCMA"),
            lambda t: t.replace("\nP2", "\n\n , ,,,,,,,,,\nP2"),
            lambda t: "\n".join(line + ",," for line in t.splitlines()),
            lambda t: t.replace("P2,14,0,,,", 'P2,14,0,".","",.'),
            lambda t: t.replace("P2,14,0,,,", "P2,14,0,0,ide-cel,"),
        ],
        ids=["CRLF", "BOM", "case", "words", "blank lines", "empty columns", "dots", "zero dose"],
    )
    def test_what_is_no_fault(self, tmp_path, change):
        plain = read_cohort(written(tmp_path, text()))
        changed = read_cohort(written(tmp_path, change(text()), "other.csv"))
        pd.testing.assert_frame_equal(changed.table, plain.table)

    def test_parquet_is_read_like_csv_whatever_its_suffix(self, tmp_path):
        plain = read_cohort(written(tmp_path, text()))
        typed = pd.read_csv(io.StringIO(text()))
        for name in ("cohort.parquet", "parquet.csv"):
            typed.to_parquet(tmp_path / name)
            pd.testing.assert_frame_equal(read_cohort(tmp_path / name).table, plain.table)

    def test_written_cohort_reads_back(self, tmp_path):
        cohort = read_cohort(written(tmp_path, text()))
        write_cohort(cohort.table, tmp_path / "again.csv")
        again = read_cohort(tmp_path / "again.csv")
        pd.testing.assert_frame_equal(again.table, cohort.table)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["again.csv", "cohort.csv"]
        assert cohort_from_frame(cohort.table).sha256 == again.sha256

    def test_a_table_that_is_not_canonical_makes_no_cohort(self):
        table = cohort_from_frame(frame(text())).table
        with pytest.raises(ReinfuseError, match="make cohorts with read_cohort"):
            Cohort(table=table.assign(CENS=2), name="x", sha256="")

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_blanks_and_order_of_columns_change_nothing(self, data, tmp_path):
        plain = cohort_from_frame(frame(text()))
        table = frame(text())
        for patient in ("P1", "P2"):
            rows = table.index[(table["ID"] == patient) & (table["age"] != "")]
            kept = data.draw(st.sets(st.sampled_from(rows.tolist()), min_size=1))
            table.loc[[i for i in rows if i not in kept], "age"] = data.draw(st.sampled_from(["", ".", "NA", "nan"]))
        for name in ("AMT", "LD", "CENS", "LLOQ", "DVID"):
            blanks = table.index[table[name] == ""]
            table.loc[blanks, name] = data.draw(st.sampled_from(["", "."]))
        shuffled = table[data.draw(st.permutations(table.columns.tolist()))]
        pd.testing.assert_frame_equal(cohort_from_frame(shuffled).table, plain.table)


ROW_FAULTS = [
    # id, changed lines, row, column, part of the message
    ("unknown assay", {4: "P1,7,0,,,,transgen,120000,0,50,61"}, 4, "DVID", "did you mean 'transgene'?"),
    ("assay by another name", {4: "P1,7,0,,,,qPCR,120000,0,50,61"}, 4, "DVID", "did you mean 'transgene'?"),
    ("nonsense assay", {4: "P1,7,0,,,,xyz,120000,0,50,61"}, 4, "DVID", "known are transgene, cart"),
    ("no assay", {4: "P1,7,0,,,,,120000,0,50,61"}, 4, "DVID", "without an assay"),
    ("unknown product", {12: "P2,0,1,,ide-sel,,,,,,"}, 12, "PRODUCT", "did you mean 'ide-cel'?"),
    ("trade name", {12: "P2,0,1,,Abecma,,,,,,"}, 12, "PRODUCT", "did you mean 'ide-cel'?"),
    ("no product", {12: "P2,0,1,,,,,,,,"}, 12, "PRODUCT", "without a product"),
    ("product not infused", {13: "P2,14,0,,cilta-cel,,mprotein,2.5,0,,55"}, 13, "PRODUCT", "did not get"),
    ("zero", {5: "P1,7,0,,,,cart,0,0,0.3,61"}, 5, "DV", "cart is zero and not marked censored"),
    ("negative", {5: "P1,7,0,,,,cart,-3,,0.3,61"}, 5, "DV", "cart is negative and not marked censored"),
    ("negative percentage", {14: "P2,14,0,,,,pd1,-1,0,,"}, 14, "DV", "pd1 is negative"),
    ("no value", {5: "P1,7,0,,,,cart,,0,0.3,61"}, 5, "DV", "without a value"),
    ("text in DV", {5: "P1,7,0,,,,cart,many,0,0.3,61"}, 5, "DV", "not a number, saw 'many'"),
    ("below sign", {5: "P1,7,0,,,,cart,<0.3,0,0.3,61"}, 5, "DV", "write 0.3 in DV and 1 in CENS"),
    ("below a decimal comma", {5: 'P1,7,0,,,,cart,"<0,3",0,0.3,61'}, 5, "DV", "limit write 0.3 in DV and 1 in CENS"),
    ("below, in words", {5: "P1,7,0,,,,cart,BLQ,0,0.3,61"}, 5, "DV", "write the limit in DV and 1 in CENS"),
    ("below, by a name", {5: "P1,7,0,,,,cart,<LLOQ,0,0.3,61"}, 5, "DV", "write the limit in DV and 1 in CENS"),
    ("not detected", {5: "P1,7,0,,,,cart,n.d.,0,0.3,61"}, 5, "DV", "write the limit in DV and 1 in CENS"),
    ("negative, in words", {5: "P1,7,0,,,,cart,neg,0,0.3,61"}, 5, "DV", "write the limit in DV and 1 in CENS"),
    ("above sign", {5: "P1,7,0,,,,cart,>1000,0,0.3,61"}, 5, "DV", "above the limit write 1000 in DV and -1 in CENS"),
    ("underscore", {5: "P1,7,0,,,,cart,1_000,0,0.3,61"}, 5, "DV", "not a number, saw '1_000'"),
    ("NaN", {5: "P1,7,0,,,,cart,NaN,0,0.3,61"}, 5, "DV", "not a finite number, saw 'NaN'"),
    ("infinity", {5: "P1,7,0,,,,cart,inf,0,0.3,61"}, 5, "DV", "not a finite number, saw 'inf'"),
    ("overflow", {5: "P1,7,0,,,,cart,1e999,0,0.3,61"}, 5, "DV", "not a finite number, saw '1e999'"),
    ("NaN time", {4: "P1,nan,0,,,,transgene,120000,0,50,61"}, 4, "TIME", "not a finite number"),
    ("no time", {4: "P1,,0,,,,transgene,120000,0,50,61"}, 4, "TIME", "no time"),
    ("date in TIME", {4: "P1,2021-03-07,0,,,,transgene,120000,0,50,61"}, 4, "TIME", "not a number"),
    ("time in seconds", {11: "P1,34560000,0,,,,death,0,,,61"}, 11, "TIME", "absurd scale"),
    ("no patient", {4: ",7,0,,,,transgene,120000,0,50,61"}, 4, "ID", "no patient"),
    ("unsorted", {4: "P1,8,0,,,,transgene,120000,0,50,61"}, 5, "TIME", "not sorted: TIME 8 stands above it in row 4"),
    ("duplicated row", {5: ROWS[4]}, 5, "TIME", "duplicated row: the same as row 4"),
    ("two values", {5: "P1,7,0,,,,transgene,99,0,50,61"}, 5, "DV", "second transgene at TIME 7; the first is in row 4"),
    ("infusion twice", {12: "P2,0,1,,ide-cel,,,,,,\nP2,0,1,,ide-cel,,,,,,"}, 13, "TIME", "duplicated row"),
    ("half a dose", {12: "P2,0,1,1e8,ide-cel,,,,,,\nP2,0,1,,ide-cel,,,,,,"}, 13, "AMT", "split dose without AMT"),
    ("two depletions", {12: "P2,0,1,1e8,ide-cel,1,,,,,\nP2,0,1,2e8,ide-cel,0,,,,,"}, 13, "LD", "two lymphodepletions"),
    ("two products a day", {12: "P2,0,1,,ide-cel,,,,,,\nP2,0,1,,cilta-cel,,,,,,"}, 13, "PRODUCT", "second product"),
    ("no infusion", {12: None}, 12, "EVID", "patient P2 has observations and no infusion"),
    ("no observations", {13: None, 14: None, 15: None}, 12, "EVID", "patient P2 has no observations"),
    ("value at infusion", {12: "P2,0,1,,ide-cel,,,5,,,"}, 12, "DV", "infusion row with a value, saw '5'"),
    ("assay at infusion", {12: "P2,0,1,,ide-cel,,cart,,,,"}, 12, "DVID", "infusion row with an assay"),
    ("dose at observation", {13: "P2,14,0,1e8,,,mprotein,2.5,0,,55"}, 13, "AMT", "observation row with a dose"),
    ("varying covariate", {10: "P1,207,0,,,,cart,12,0,,62"}, 10, "age", "varies within patient P1: '61' in row 2"),
    ("infinite covariate", {13: "P2,14,0,,,,mprotein,2.5,0,,inf"}, 13, "age", "not a finite number"),
    ("cells per mL", {5: "P1,7,0,,,,cart,8050000,0,0.3,61"}, 5, "DV", "cells/mL? Divide by 1000"),
    ("censored per mL", {5: "P1,7,0,,,,cart,2000000,1,,61"}, 5, "DV", "absurd scale"),
    ("transgene scale", {4: "P1,7,0,,,,transgene,2e9,0,50,61"}, 4, "DV", "absurd scale: transgene above 1e+09"),
    ("pg per mL", {8: "P1,180,0,,,,sbcma,9000000,0,1.1,61"}, 8, "DV", "pg/mL? Divide by 1000"),
    ("g per L", {13: "P2,14,0,,,,mprotein,25,0,,55"}, 13, "DV", "g/L? Divide by 10"),
    ("percentage", {14: "P2,14,0,,,,pd1,101,0,,"}, 14, "DV", "a percentage lies in 0..100"),
    ("dose in millions", {3: "P1,0,1,450,ide-cel,1,,,,,61"}, 3, "AMT", "10^6 cells?"),
    ("dose too large", {3: "P1,0,1,4.5e14,ide-cel,1,,,,,61"}, 3, "AMT", "too many cells"),
    ("no dose", {3: "P1,0,1,0,ide-cel,1,,,,,61"}, 3, "AMT", "not positive, saw '0'"),
    ("LD in percent", {9: "P1,200,1,,cilta-cel,50,,,,,61"}, 9, "LD", "outside 0..1, saw '50'"),
    ("CENS", {5: "P1,7,0,,,,cart,80.5,2,0.3,61"}, 5, "CENS", "CENS is not -1, 0 or 1, saw '2'"),
    ("CENS of words", {5: "P1,7,0,,,,cart,80.5,yes,0.3,61"}, 5, "CENS", "not a number, saw 'yes'"),
    ("censored at zero", {6: "P1,100,0,,,,cart,0,1,0.3,61"}, 6, "DV", "without a positive limit in DV"),
    ("half the limit", {6: "P1,100,0,,,,cart,0.15,1,0.3,61"}, 6, "DV", "DV is not the limit 0.3 given in LLOQ"),
    ("limit", {6: "P1,100,0,,,,cart,0.3,1,-1,61"}, 6, "LLOQ", "limit is not positive"),
    ("limit of an event", {7: "P1,150,0,,,,progression,1,,0,61"}, 7, "LLOQ", "limit is not positive, saw '0'"),
    ("EVID", {5: "P1,7,2,,,,cart,80.5,0,0.3,61"}, 5, "EVID", "EVID is not 0 or 1, saw '2'"),
    ("no EVID", {5: "P1,7,,,,,cart,80.5,0,0.3,61"}, 5, "EVID", "EVID is not 0 or 1"),
    ("progression of 2", {7: "P1,150,0,,,,progression,2,,,61"}, 7, "DV", "progression is neither 0 nor 1"),
    ("death of a half", {11: "P1,400,0,,,,death,0.5,,,61"}, 11, "DV", "death is neither 0 nor 1"),
    ("censored death", {11: "P1,400,0,,,,death,0,1,,61"}, 11, "CENS", "cannot be below or above a limit"),
    ("two progressions", {8: "P1,180,0,,,,progression,0,,,61"}, 8, "DVID", "the first is in row 7"),
    ("two deaths", {10: "P1,207,0,,,,death,0,,,61"}, 11, "DVID", "second death row"),
    ("early progression", {2: "P1,-5,0,,,,progression,1,,,61", 7: None}, 2, "TIME", "before the first infusion"),
    ("late infusion", {12: "P2,3,1,,ide-cel,,,,,,"}, 12, "TIME", "shift the patient's times by -3"),
    ("after death", {11: "P1,206,0,,,,death,1,,,61", 10: None, 12: "P1,207,0,,,,cart,12,0,,61\n" + ROWS[12]}, 11,
     "TIME", "after the patient's death (TIME 206, row 10)"),
    ("too few cells", {5: "P1,7,0,,,,cart,80.5"}, 5, "-", "the row has 8 cells and the header 11"),
    ("decimal comma", {5: 'P1,7,0,,,,cart,"80,5",0,"0,3",61'}, 5, "DV", "decimal comma (and 1 more cells like it)"),
]  # fmt: skip


class TestFaultsOfRows:
    @pytest.mark.parametrize(
        ("changes", "row", "column", "part"),
        [entry[1:] for entry in ROW_FAULTS],
        ids=[entry[0] for entry in ROW_FAULTS],
    )
    def test_one_fault_where_it_is(self, tmp_path, changes, row, column, part):
        path = written(tmp_path, text(changes))
        faults = faults_of(path)
        assert [(fault.row, fault.column) for fault in faults] == [(row, column)]
        assert str(faults[0]).startswith(f"{path}:{row}:{column}: ")
        assert part in str(faults[0])

    def test_all_faults_come_together_in_the_order_of_the_file(self, tmp_path):
        changes = {
            5: "P1,7,0,,,,cart,0,0,0.3,61",
            9: "P1,200,1,,cilta-sel,7,,,,,61",
            14: "P2,14,0,,,,pd-1,x,3,,",
        }
        faults = faults_of(written(tmp_path, text(changes)))
        assert [(fault.row, fault.column) for fault in faults] == [
            (5, "DV"),
            (9, "PRODUCT"),
            (9, "LD"),
            (14, "DVID"),
            (14, "DV"),
            (14, "CENS"),
        ]

    def test_rows_are_counted_by_lines_of_the_file(self, tmp_path):
        changes = {
            3: "\n" + ROWS[3],
            4: 'P1,7,0,,,,transgene,120000,0,50,"61"',
            5: "P1,7,0,,,,cart,0,0,0.3,61",
        }
        assert [fault.row for fault in faults_of(written(tmp_path, text(changes)))] == [6]

    def test_a_quoted_line_break_counts_as_a_line(self, tmp_path):
        content = text({5: "P1,7,0,,,,cart,0,0,0.3,61"}).replace(",61", ',"6\n1"')
        faults = faults_of(written(tmp_path, content))
        # rows 2, 3 and 4 take two lines each
        assert [fault.row for fault in faults] == [8]

    def test_many_faults_are_cut_in_the_text_and_kept_in_the_list(self, tmp_path):
        extra = "\n".join(f"P2,{300 + i},0,,,,cart,0,0,," for i in range(1, 71))
        path = written(tmp_path, text() + extra + "\n")
        with pytest.raises(CohortError) as caught:
            read_cohort(path)
        assert len(caught.value.faults) == 70
        lines = str(caught.value).splitlines()
        assert len(lines) == 51
        assert lines[-1] == "… and 20 more"

    def test_the_error_is_a_reinfuse_error_and_can_be_pickled(self, tmp_path):
        with pytest.raises(ReinfuseError) as caught:
            read_cohort(written(tmp_path, text({12: None})))
        again = pickle.loads(pickle.dumps(caught.value))
        assert again.faults == caught.value.faults
        assert str(again) == str(caught.value)

    def test_rows_of_parquet_are_counted_as_below_a_header(self, tmp_path):
        typed = pd.read_csv(io.StringIO(text({5: "P1,7,0,,,,cart,0,0,0.3,61"})))
        typed.to_parquet(tmp_path / "cohort.parquet")
        assert [(f.row, f.column) for f in faults_of(tmp_path / "cohort.parquet")] == [(5, "DV")]

    @settings(max_examples=40, deadline=None)
    @given(
        row=st.sampled_from([4, 5, 8, 10, 13]),
        value=st.sampled_from(["0", "-1", "nan", "-inf", "abc", "", "1e12", "1;2", "--3", "0x10"]),
    )
    def test_a_bad_value_anywhere_is_found_there(self, row, value):
        cells = ROWS[row].split(",")
        cells[7] = value
        with pytest.raises(CohortError) as caught:
            cohort_from_frame(frame(text({row: ",".join(cells)})))
        assert [(fault.row, fault.column) for fault in caught.value.faults] == [(row, "DV")]


class TestWhatAnEventsValueIs:
    def test_words_in_place_of_0_and_1(self):
        with pytest.raises(CohortError) as caught:
            cohort_from_frame(frame(text()).assign(DVID="progression", DV="yes").iloc[[0, 1]])
        said = [fault.remedy for fault in caught.value.faults if fault.column == "DV"]
        assert any("write 1 if it happened on that day" in remedy for remedy in said)


class TestFaultsOfTheHeader:
    @pytest.mark.parametrize("name", ["ID", "TIME", "EVID", "AMT", "PRODUCT", "DVID", "DV"])
    def test_a_required_column_is_missing(self, tmp_path, name):
        content = frame(text()).drop(columns=name).to_csv(index=False)
        faults = faults_of(written(tmp_path, content))
        assert [(fault.row, fault.column) for fault in faults] == [(1, name)]
        assert "required column is missing" in faults[0].what

    @pytest.mark.parametrize("name", ["LD", "CENS", "LLOQ"])
    def test_an_optional_column_may_be_missing(self, name):
        without = frame(text({6: None})).drop(columns=name)
        assert cohort_from_frame(without).n_patients == 2

    @pytest.mark.parametrize(
        ("name", "alias"),
        [("TIME", "Day"), ("DVID", "ytype"), ("PRODUCT", "PRODUKT"), ("TIME", "Time (days)"), ("AMT", "amt [cells]")],
    )
    def test_a_column_by_another_name(self, tmp_path, name, alias):
        faults = faults_of(written(tmp_path, text(header=HEADER.replace(name, alias))))
        assert [fault.column for fault in faults] == [name]
        assert f"rename column {alias!r} to {name}" in faults[0].remedy

    def test_a_title_above_the_header(self, tmp_path):
        faults = faults_of(written(tmp_path, f"Ward 4,{',' * (HEADER.count(',') - 1)}\n{text()}"))
        assert [(fault.row, fault.what, fault.value) for fault in faults] == [
            (1, "a title stands above the header", "Ward 4")
        ]
        assert "remove what stands above row 2" in faults[0].remedy

    def test_duplicate_column(self, tmp_path):
        faults = faults_of(written(tmp_path, text(header=HEADER.replace("age", "dv"))))
        assert [(fault.row, fault.column, fault.value) for fault in faults] == [(1, "DV", "DV, dv")]

    def test_column_without_a_name(self, tmp_path):
        faults = faults_of(written(tmp_path, text(header=HEADER.replace(",age", ","))))
        assert [(fault.row, fault.what) for fault in faults] == [(1, "column 11 has no name")]

    def test_header_only(self, tmp_path):
        faults = faults_of(written(tmp_path, HEADER + "\n"))
        assert [(fault.row, fault.what) for fault in faults] == [(1, "there is a header and no rows")]


def xlsx():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return buffer.getvalue()


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("cohort.csv", text())
    return buffer.getvalue()


FILES = [
    ("empty", b"", "the file is empty"),
    ("blank", b" \r\n\n", "the file is empty"),
    ("xlsx", xlsx(), "Excel workbook"),
    ("zip", zipped(), "zip archive"),
    ("xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 100, "old Excel"),
    ("pdf", b"%PDF-1.7\n%\xe2\xe3", "PDF document"),
    ("html", b"<!DOCTYPE html>\n<html><body>404</body></html>", "web page"),
    ("json", b'{"ID": [1, 2]}', "JSON"),
    ("gzip", b"\x1f\x8b\x08\x00abc", "gzip"),
    ("netcdf", b"\x89HDF\r\n\x1a\n", "NetCDF"),
    ("utf-16", text().encode("utf-16"), "encoded as UTF-16"),
    ("utf-16 without mark", text().encode("utf-16-le"), "encoded as UTF-16"),
    ("binary", b"abc\x00\x01\x02defghijklmnopqrstuvwxyz" * 5, "binary file"),
    ("broken parquet", b"PAR1 and then nothing", "Parquet file cannot be read"),
    ("open quote", text().replace("sbcma", '"sbcma', 1).encode(), "broken CSV"),
    ("semicolons", text().replace(",", ";").encode(), "separated by semicolons"),
    ("tabs", text().replace(",", "\t").encode(), "separated by tabs"),
]


class TestFaultsOfFiles:
    @pytest.mark.parametrize(("content", "part"), [f[1:] for f in FILES], ids=[f[0] for f in FILES])
    def test_one_message_for_the_file(self, tmp_path, content, part):
        faults = faults_of(written(tmp_path, content))
        assert len(faults) == 1
        assert part in faults[0].what

    def test_semicolons_and_decimal_commas_are_one_message(self, tmp_path):
        content = text().replace(",", ";").replace("80.5", "80,5")
        (fault,) = faults_of(written(tmp_path, content))
        assert "separated by semicolons and decimals are written with a comma" in fault.what

    def test_decimal_commas_without_quotes_are_one_message(self, tmp_path):
        comma = {5: "P1,7,0,,,,cart,80,5,0,0,3,61", 13: "P2,14,0,,,,mprotein,2,5,0,,55"}
        (fault,) = faults_of(written(tmp_path, text(comma)))
        assert (fault.row, fault.what) == (
            5,
            "the row has 13 cells and the header 11 (and 1 more rows like it)",
        )
        assert "decimals with a point" in fault.remedy

    def test_a_byte_that_is_not_utf8(self, tmp_path):
        content = text({13: "P2,14,0,,,,mprotein,2.5,0,,Müller"}).encode("latin-1")
        (fault,) = faults_of(written(tmp_path, content))
        assert (fault.row, fault.column, fault.value) == (13, "age", "byte 0xfc (ü)")
        assert "save it as UTF-8" in fault.remedy

    def test_missing_file_and_folder(self, tmp_path):
        assert faults_of(tmp_path / "absent.csv")[0].what == "no such file"
        assert faults_of(tmp_path)[0].what == "this is a folder"


class TestCohort:
    def test_after_progression(self, tmp_path):
        cohort = read_cohort(written(tmp_path, text()))
        rows = cohort.observations[cohort.after_progression]
        # the sBCMA of day 180 follows the progression of day 150; day 207 is under the second infusion
        assert rows[["ID", "TIME", "DVID"]].to_numpy().tolist() == [["P1", 180.0, "sbcma"]]

    def test_events_are_never_flagged_and_the_day_of_progression_is_not(self):
        changes = {
            7: "P1,150,0,,,,sbcma,5,0,,61\n" + ROWS[7],
            8: "P1,180,0,,,,death,0,,,61",
            9: None,
            10: None,
            11: None,
        }
        cohort = cohort_from_frame(frame(text(changes)))
        assert not cohort.after_progression.any()

    def test_progression_on_the_day_of_an_infusion_is_of_the_course_before(self):
        changes = {
            7: None,
            9: "P1,200,0,,,,progression,0,,,61\n" + ROWS[9],
            10: "P1,260,0,,,,progression,1,,,61",
        }
        cohort = cohort_from_frame(frame(text(changes)))
        progressions = cohort.observations["DVID"].to_numpy() == "progression"
        assert cohort.observation_slots[progressions].tolist() == [1, 2, 1]

    def test_slots_of_observations(self, tmp_path):
        cohort = read_cohort(written(tmp_path, text()))
        assert cohort.observation_slots.tolist() == [1, 1, 1, 1, 1, 1, 2, 2, 1, 1, 1]


class TestSummary:
    def test_tables(self, tmp_path):
        summary = summarise(read_cohort(written(tmp_path, text())))
        assert summary.patients.to_numpy().tolist() == [["ide-cel", 2, 2]]
        assert summary.infusions.to_numpy().tolist() == [[1, 1], [2, 1]]
        assays = summary.assays.set_index(["assay", "product"])
        assert assays.index.tolist() == [
            ("transgene", "ide-cel"),
            ("cart", "cilta-cel"),
            ("cart", "ide-cel"),
            ("sbcma", "ide-cel"),
            ("mprotein", "ide-cel"),
            ("pd1", "ide-cel"),
        ]
        cart = assays.loc[("cart", "ide-cel")]
        assert (cart["samples"], cart["patients"], cart["blq"]) == (2, 1, 50.0)
        assert (cart["median"], cart["first_day"], cart["last_day"]) == (80.5, 7.0, 100.0)
        follow_up = summary.follow_up.set_index("product")
        assert follow_up.loc["ide-cel", ["courses", "progressions", "pfs_events"]].tolist() == [2, 1, 1]
        assert follow_up.loc["ide-cel", "last_day"] == 250.0
        assert follow_up.loc["ide-cel", "pfs_median"] == 150.0
        assert math.isnan(follow_up.loc["cilta-cel", "pfs_median"])
        assert summary.after_progression.to_numpy().tolist() == [["sbcma", "ide-cel", 1]]

    def test_a_death_without_progression_ends_progression_free_survival(self):
        changes = {7: "P1,150,0,,,,progression,0,,,61", 9: None, 10: None, 11: "P1,190,0,,,,death,1,,,61"}
        line = summarise(cohort_from_frame(frame(text(changes)))).follow_up.iloc[0]
        assert (line["progressions"], line["deaths"], line["pfs_events"], line["pfs_median"]) == (
            0,
            1,
            1,
            190.0,
        )

    def test_kaplan_meier_median(self):
        # textbook: 6-MP arm of Freireich 1963 has median 23 weeks, the placebo arm 8
        times = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
        events = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
        placebo = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
        assert kaplan_meier_median(times, events) == 23
        assert kaplan_meier_median(placebo, np.ones(21)) == 8
        assert kaplan_meier_median([5, 6], [0, 0]) == math.inf
        assert math.isnan(kaplan_meier_median([], []))


class TestCommand:
    def test_summary_fits_80_columns(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        code = guarded(lambda: check.command(written(tmp_path, text())))
        shown = capsys.readouterr()
        assert (code, shown.err) == (0, "")
        assert "cohort.csv is a cohort without faults" in shown.out
        assert "Infusions per patient: 1 of 1 patients, 2 of 1 patients." in shown.out
        tables = [line for line in shown.out.splitlines() if not line.startswith("SHA-256")]
        assert max(map(len, tables)) <= 80
        assert "…" not in shown.out

    def test_faults_end_with_2(self, tmp_path):
        from typer.testing import CliRunner

        from reinfuse.scripts.main import build

        path = written(tmp_path, text({12: None}))
        done = CliRunner().invoke(build(), ["check", str(path)])
        assert done.exit_code == 2
        assert done.stdout == ""
        assert done.stderr.startswith(f"{path}:12:EVID: patient P2 has observations and no infusion")
        assert done.stderr.endswith(f"1 fault in {path}: mend and check again.\n")

    @pytest.mark.parametrize(
        ("number", "shown"),
        [
            (0.0, "0"),
            (0.312, "0.312"),
            (77160.5, "77,200"),
            (4005946.0, "4.01e6"),
            (math.nan, "–"),
            (19.403, "19.4"),
        ],
    )
    def test_short_numbers(self, number, shown):
        assert check.short(number) == shown
