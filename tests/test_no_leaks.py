"""Nothing of one machine, of a registry or of a real patient stands in a committed file."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Built from pieces, so that this file holds none of what it looks for.
LOCAL_PATHS = re.compile("|".join(f"/{folder}/" for folder in ("work", "root", "tmp/[a-z]+")))
REGISTRY_HOSTS = re.compile("|".join(("pypi" + r"\.org/simple", "files" + r"\.pythonhosted", "test" + r"\.pypi\.")))
PATIENT_IDS = re.compile(r"\b" + "Patient" + r"0\d{2}\b")
DATA_SUFFIXES = {".csv", ".tsv", ".json", ".ipynb", ".parquet", ".nc", ".toml", ".md", ".html", ".svg"}


def committed() -> list[Path]:
    """Files that git tracks, or would with `git add .`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip(f"not a git checkout, so nothing here is committed: {listed.stderr.strip()}")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def hits(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    """`file:line` of every match; binary files are read as Latin-1, which loses nothing of ASCII."""
    found = []
    for path in files:
        for number, line in enumerate(path.read_bytes().decode("latin-1").splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT).as_posix()}:{number}")
    return found


@pytest.mark.parametrize("pattern", [LOCAL_PATHS, REGISTRY_HOSTS], ids=["local path", "registry host"])
def test_no_committed_file_names_it(pattern):
    files = committed()
    assert ROOT / "pyproject.toml" in files
    assert hits(pattern, files) == []


def test_no_data_file_holds_a_row_of_the_real_cohort():
    assert hits(PATIENT_IDS, [path for path in committed() if path.suffix in DATA_SUFFIXES]) == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (LOCAL_PATHS, "/".join(("see ", "work", "main"))),
        (REGISTRY_HOSTS, "https://" + ".".join(("pypi", "org")) + "/simple"),
        (PATIENT_IDS, '{"ID": "Patient' + '012"}'),
    ],
)
def test_the_patterns_find_what_they_look_for(pattern, text):
    assert pattern.search(text)
