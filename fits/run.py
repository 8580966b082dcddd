"""The run folder: what is in it, where it came from, and how to read it back.

A run folder is what `reinfuse fit` leaves behind and what every later command starts from::

    run.json          provenance: command, versions, git revision, seed, checksums, sampler, times, status
    cohort.csv        the cohort, byte for byte as it was read
    model.py          optional: the file of a model of the user's own
    products.toml     optional: the file of products of the user's own
    posterior.nc      draws as an xarray DataTree (groups of ArviZ), written with h5netcdf
    summary.csv       one row per population scalar
    diagnostics.json  converged or not, and why
    forecast.nc       optional: predictions of withheld rows, from a fit that did not see them
    chains/           finished chains, and the last state of others, so that an interrupted fit can go on
    figures/, report.html

Every file is written beside its final name and then renamed, so a run folder never holds half a file.
"""

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.products import load_products, register

from .whole_file import write_whole

RUN_FILE: Final = "run.json"
COHORT_FILE: Final = "cohort.csv"
MODEL_FILE: Final = "model.py"
PRODUCTS_FILE: Final = "products.toml"
POSTERIOR_FILE: Final = "posterior.nc"
SUMMARY_FILE: Final = "summary.csv"
DIAGNOSTICS_FILE: Final = "diagnostics.json"
FORECAST_FILE: Final = "forecast.nc"
REPORT_FILE: Final = "report.html"
CHAINS_FOLDER: Final = "chains"
FIGURES_FOLDER: Final = "figures"
SETTINGS_KEY: Final = "settings_hash"

OWN_FILES: Final = (
    RUN_FILE,
    COHORT_FILE,
    MODEL_FILE,
    PRODUCTS_FILE,
    POSTERIOR_FILE,
    SUMMARY_FILE,
    DIAGNOSTICS_FILE,
    FORECAST_FILE,
    REPORT_FILE,
)
OWN_FOLDERS: Final = (CHAINS_FOLDER, FIGURES_FOLDER)

RUN_KEYS: Final = (
    "command",
    "versions",
    "git",
    "seed",
    "cohort_sha256",
    "sampler",
    "wall_seconds",
    "status",
    "model",
    "options",
    "variant",
)

PACKAGES: Final = (
    "reinfuse",
    "numpy",
    "scipy",
    "numba",
    "pandas",
    "xarray",
    "pymc",
    "pytensor",
    "nutpie",
    "arviz",
    "arviz-stats",
)

LAYOUT: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "posterior": {
        "population": ("chain", "draw", "parameter"),
        "omega": ("chain", "draw", "effect"),
        "individual": ("chain", "draw", "patient", "effect"),
    },
    "sample_stats": {},
    "observed_data": {
        "patient": ("observation",),
        "time": ("observation",),
        "dvid": ("observation",),
        "value": ("observation",),
        "cens": ("observation",),
        "product": ("observation",),
    },
}
"""Groups and variables that every posterior.nc holds, with their dimensions in order."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def command_line(words: Sequence[str]) -> str:
    """A command as a user may type it again: its name without the folder it lies in."""
    first, rest = words[:1], words[1:]
    return shlex.join([*(Path(word).name for word in first), *rest])


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Return a digest of settings; equal settings give equal digests whatever their order.

    Parameters
    ----------
    settings
        Anything JSON can hold: model, options, seed, draws, checksum of the cohort. A chain may be re-used
        only by a fit with the same digest, so put in everything that changes a chain.

    Returns
    -------
    str
        The first 16 hexadecimal digits of the SHA-256 of the canonical JSON text.
    """
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that shape a result; None where one is absent."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_revision(folder: Path | None = None) -> dict[str, Any] | None:
    """Return `{"revision": ..., "dirty": ...}` of the source tree, or None when git does not hold it.

    Parameters
    ----------
    folder
        A folder whose files git tracks; the folder of this module when None. An installed copy inside
        somebody else's repository is not tracked there, so its revision is not taken for ours.
    """
    here = Path(__file__).resolve().parent if folder is None else folder

    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()

    if not ask("ls-files", "."):
        return None
    revision = ask("rev-parse", "HEAD")
    if revision is None:
        return None
    return {"revision": revision, "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))}


def provenance(
    *,
    seed: int | None,
    cohort_sha256: str,
    sampler: str,
    model: str,
    options: Mapping[str, Any] | str,
    variant: str,
    status: str,
    wall_seconds: Mapping[str, float] | None = None,
    command: Sequence[str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Gather what `run.json` says of a run.

    Parameters
    ----------
    seed
        The one `--seed`.
    cohort_sha256
        SHA-256 of the cohort file as the user gave it.
    sampler
        Name and backend of the sampler that really ran, not of the one asked for.
    model, options, variant
        The equations, their options, and the named variant (`full`, `no-dysfunction`, ...).
    status
        `running`, `interrupted`, `done` or `failed`.
    wall_seconds
        Seconds by stage: `compile`, `setup`, `sampling`, `post`.
    command
        The command line; `sys.argv` when None.
    more
        Further keys, for example `solver_failures`, `comparison`, `draws`.

    Returns
    -------
    dict
        JSON-ready, with every key of `RUN_KEYS`.
    """
    return {
        "command": command_line(sys.argv if command is None else command),
        "versions": versions(),
        "git": git_revision(),
        "seed": seed,
        "cohort_sha256": cohort_sha256,
        "sampler": sampler,
        "wall_seconds": dict(wall_seconds or {}),
        "status": status,
        "model": model,
        "options": options if isinstance(options, str) else dict(options),
        "variant": variant,
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **more,
    }


@dataclass(frozen=True)
class RunFolder:
    """One run on disk. Make one with `RunFolder.create`, read one with `RunFolder.open`."""

    path: Path

    # ------------------------------------------------------------------ making and opening

    @classmethod
    def check(cls, path: str | Path, *, resume: bool = False, overwrite: bool = False) -> bool:
        """Whether `create` would find a run there; refuses what it would refuse, and changes nothing.

        Cheap, to be asked before a fit compiles anything. Parameters and errors as of `create`.
        """
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            raise ReinfuseError(f"{folder} is a file; --out needs a folder. Name a folder that is new or empty.")
        names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        is_run = RUN_FILE in names or CHAINS_FOLDER in names
        if names and not is_run:
            raise ReinfuseError(
                f"{folder} holds other files ({_some(names)}) and no {RUN_FILE}. Name a folder that is new or empty."
            )
        if is_run and not (resume or overwrite):
            raise ReinfuseError(
                f"{folder} already holds a run. Name another folder, add --resume to go on with one that was "
                "interrupted, or --force to write over it."
            )
        if RUN_FILE in names and resume and not overwrite and cls(folder).provenance.get("status") == "done":
            raise ReinfuseError(
                f"{folder} holds a finished run; there is nothing to resume. Look at it with `reinfuse diagnose`, name "
                "another folder, or fit again with --force instead of --resume."
            )
        return is_run

    @classmethod
    def create(cls, path: str | Path, *, resume: bool = False, overwrite: bool = False) -> Self:
        """Make a run folder, and refuse to write into a folder that is something else.

        Parameters
        ----------
        path
            The folder; its parents are made too.
        resume
            Go on with the run that is there: keep everything, finished chains above all.
        overwrite
            Remove the files of the run that is there (only files a run folder owns).

        Raises
        ------
        ReinfuseError
            If the path is a file, holds other files, or holds a run and neither `resume` nor `overwrite`
            was asked for. Nothing is changed then.
        """
        folder, is_run = Path(path), cls.check(path, resume=resume, overwrite=overwrite)
        if is_run and overwrite and not resume:
            for name in OWN_FILES:
                (folder / name).unlink(missing_ok=True)
            for name in OWN_FOLDERS:
                shutil.rmtree(folder / name, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a run folder that exists, having looked whether it is one.

        Raises
        ------
        ReinfuseError
            If there is no such folder, no readable `run.json`, a key is missing from it, or `cohort.csv`
            is not the file the run was made with.
        """
        folder = Path(path)
        if not folder.exists():
            raise ReinfuseError(f"There is no folder {folder}. Give the folder that `reinfuse fit --out` wrote.")
        if not folder.is_dir():
            raise ReinfuseError(f"{folder} is a file, not a run folder. Give the folder that holds {RUN_FILE}.")
        run = cls(folder)
        if not (folder / RUN_FILE).is_file():
            names = sorted(entry.name for entry in folder.iterdir())
            raise ReinfuseError(
                f"{folder} is not a run folder: it has no {RUN_FILE} (it holds: "
                f"{_some(names) or 'nothing'}). Give the folder that `reinfuse fit --out` wrote."
            )
        written = run.provenance
        missing = [key for key in RUN_KEYS if key not in written]
        if missing:
            raise ReinfuseError(
                f"{folder / RUN_FILE} lacks {', '.join(missing)}: it was not written by `reinfuse fit` of "
                "this version. Fit again."
            )
        run._check_sum(COHORT_FILE)
        return run

    def register_products(self) -> None:
        """Make the run's own products known in this process, if it has any."""
        if (own := self.path / PRODUCTS_FILE).is_file():
            for product in load_products(own):
                register(product)

    # ------------------------------------------------------------------ provenance

    @property
    def provenance(self) -> dict[str, Any]:
        """The content of `run.json`.

        Raises
        ------
        ReinfuseError
            If the file is not readable as a JSON object.
        """
        return self._read_json(RUN_FILE)

    def write_provenance(self, content: Mapping[str, Any]) -> None:
        """Write `run.json`, keeping the checksums of files already written.

        Raises
        ------
        ReinfuseError
            If a key of `RUN_KEYS` is missing.
        """
        missing = [key for key in RUN_KEYS if key not in content]
        if missing:
            raise ReinfuseError(f"run.json would lack {', '.join(missing)}. Build it with `provenance(...)`.")
        files = dict(self.provenance.get("files", {})) if (self.path / RUN_FILE).is_file() else {}
        for name in (COHORT_FILE, POSTERIOR_FILE, FORECAST_FILE):
            if (self.path / name).is_file() and name not in files:
                files[name] = sha256_of(self.path / name)
        self._write_json(RUN_FILE, {**content, "files": {**files, **content.get("files", {})}})

    def update_provenance(self, **changes: Any) -> None:
        """Change keys of `run.json`, for example `status` and `wall_seconds` when sampling ends."""
        self._write_json(RUN_FILE, {**self.provenance, **changes})

    # ------------------------------------------------------------------ cohort

    @property
    def cohort_path(self) -> Path:
        """Where the run's own copy of the cohort is."""
        return self.path / COHORT_FILE

    def write_cohort(self, source: Path | pd.DataFrame) -> str:
        """Copy the cohort into the run and return the SHA-256 of the copy.

        Parameters
        ----------
        source
            A CSV file, copied byte for byte, or a table, written as CSV (a cohort read from Parquet).
        """
        if isinstance(source, pd.DataFrame):
            content = source.to_csv(index=False, lineterminator="\n").encode()
        else:
            content = source.read_bytes()
        write_whole(self.path / COHORT_FILE, lambda temporary: temporary.write_bytes(content))
        return self._record(COHORT_FILE)

    def write_copy(self, name: str, source: Path) -> str:
        """Copy a file that the fit was given into the run, byte for byte, and return the SHA-256 of the copy."""
        write_whole(self.path / name, lambda temporary: temporary.write_bytes(source.read_bytes()))
        return self._record(name)

    # ------------------------------------------------------------------ draws

    def write_posterior(self, tree: xr.DataTree) -> None:
        """Write `posterior.nc` after checking that the groups and dimensions are those of `LAYOUT`.

        Raises
        ------
        ReinfuseError
            If a group, variable or dimension of the layout is missing.
        """
        check_layout(tree, where=POSTERIOR_FILE)
        write_whole(self.path / POSTERIOR_FILE, lambda temporary: _write_tree(tree, temporary))
        self._record(POSTERIOR_FILE)

    def posterior(self) -> xr.DataTree:
        """Read `posterior.nc` whole into memory.

        Raises
        ------
        ReinfuseError
            If it is absent (an interrupted run), damaged, changed since it was written, or of another layout.
        """
        if not (self.path / POSTERIOR_FILE).is_file():
            status = self.provenance.get("status", "unknown")
            raise ReinfuseError(
                f"{self.path} has no {POSTERIOR_FILE}; its status is '{status}'. Finish the fit with "
                "`reinfuse fit … --resume`, then try again."
            )
        self._check_sum(POSTERIOR_FILE)
        tree = _read_tree(self.path / POSTERIOR_FILE)
        check_layout(tree, where=str(self.path / POSTERIOR_FILE))
        return tree

    def write_forecast(self, forecast: xr.Dataset) -> None:
        """Write `forecast.nc`: predictions of rows that the fit behind them did not see.

        Parameters
        ----------
        forecast
            `prediction` (sample, row) natural logarithm of the predicted assay without residual error,
            `sigma` (sample, row) residual scale on that scale, `log_weight` (sample, row) logarithms of the
            samples' weights, up to a constant, `nu` () degrees of freedom, and per row `patient`, `time`, `dvid`,
            `product`, `value` (natural units), `cens` and `cutoff_day`: the last day the forecast was allowed to
            see. Optionally, each patient's own outcome withheld, `risk` (cutoff, subject): mean cumulative hazard
            of progression by `holdout.RISK_DAY`, and `free` (cutoff, subject, horizon): chance of no progression
            until a day for a patient free of it at the cut-off.
        """
        write_whole(self.path / FORECAST_FILE, lambda temporary: _write_tree(xr.DataTree(forecast), temporary))
        self._record(FORECAST_FILE)

    def forecast(self) -> xr.Dataset | None:
        """Read `forecast.nc`, or None when this run has none.

        Forecasts of earlier versions, which had one cut-off and equal weights, come in the present layout.
        """
        if not (self.path / FORECAST_FILE).is_file():
            return None
        self._check_sum(FORECAST_FILE)
        return _by_cutoff(_read_tree(self.path / FORECAST_FILE).to_dataset())

    # ------------------------------------------------------------------ chains, for --resume

    def save_chain(self, chain: int, draws: xr.Dataset | xr.DataTree, *, settings: str) -> Path:
        """Keep one finished chain.

        Parameters
        ----------
        chain
            Its number, from 0.
        draws
            What the sampler gave for this chain.
        settings
            `settings_hash` of the fit, so that another fit does not take this chain for its own.
        """
        tree = draws.copy() if isinstance(draws, xr.DataTree) else xr.DataTree(draws)
        tree.attrs = {**tree.attrs, SETTINGS_KEY: settings, "chain": int(chain)}
        (self.path / CHAINS_FOLDER).mkdir(exist_ok=True)
        name = f"{CHAINS_FOLDER}/chain-{chain}.nc"
        write_whole(self.path / name, lambda temporary: _write_tree(tree, temporary))
        return self.path / name

    def load_chain(self, chain: int) -> xr.DataTree:
        """Read one finished chain.

        Raises
        ------
        ReinfuseError
            If it is absent or damaged.
        """
        file = self.path / CHAINS_FOLDER / f"chain-{chain}.nc"
        if not file.is_file():
            raise ReinfuseError(f"{self.path} holds no finished chain {chain}. Fit without --resume.")
        return _read_tree(file)

    def finished_chains(self, settings: str) -> list[int]:
        """Return the numbers of the chains that a fit with these settings may re-use, in order.

        A chain of another fit, and a file that cannot be read, is passed over: it is sampled again.
        """
        folder = self.path / CHAINS_FOLDER
        found = []
        for file in folder.glob("chain-*.nc"):
            try:
                attributes = _read_tree(file).attrs
            except ReinfuseError:
                continue
            if attributes.get(SETTINGS_KEY) == settings and "chain" in attributes:
                found.append(int(attributes["chain"]))
        return sorted(found)

    def save_state(self, chain: int, state: Mapping[str, NDArray[Any]], *, settings: str) -> None:
        """Keep the state of a chain that is on its way; arguments as of `save_chain`."""
        (self.path / CHAINS_FOLDER).mkdir(exist_ok=True)

        def put(temporary: Path) -> None:
            with temporary.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **{SETTINGS_KEY: np.array(settings)}, **state)

        write_whole(self.path / f"{CHAINS_FOLDER}/state-{chain}.npz", put)

    def load_state(self, chain: int, *, settings: str) -> dict[str, NDArray[Any]] | None:
        """The last state of a chain, or None if there is none that a fit with these settings may go on from."""
        file = self.path / CHAINS_FOLDER / f"state-{chain}.npz"
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
                state = dict(found)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # absent, or not to be trusted
            return None
        return state if str(state.pop(SETTINGS_KEY, "")) == settings else None

    def clear_chains(self) -> None:
        """Remove the kept chains, once `posterior.nc` holds them."""
        shutil.rmtree(self.path / CHAINS_FOLDER, ignore_errors=True)

    # ------------------------------------------------------------------ tables and figures

    def write_summary(self, table: pd.DataFrame) -> None:
        """Write `summary.csv`."""
        content = table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
        write_whole(self.path / SUMMARY_FILE, lambda temporary: temporary.write_text(content, encoding="utf-8"))

    def summary(self) -> pd.DataFrame:
        """Read `summary.csv`.

        Raises
        ------
        ReinfuseError
            If it is absent.
        """
        file = self.path / SUMMARY_FILE
        if not file.is_file():
            raise ReinfuseError(f"{self.path} has no {SUMMARY_FILE}. Run `reinfuse diagnose {self.path}` first.")
        return pd.read_csv(file, keep_default_na=False, na_values=["", "nan"])

    def write_diagnostics(self, content: Mapping[str, Any]) -> None:
        """Write `diagnostics.json`; an infinite or undefined number is written as null."""
        self._write_json(DIAGNOSTICS_FILE, content)

    def diagnostics(self) -> dict[str, Any]:
        """Read `diagnostics.json`.

        Raises
        ------
        ReinfuseError
            If it is absent or not a JSON object.
        """
        if not (self.path / DIAGNOSTICS_FILE).is_file():
            raise ReinfuseError(f"{self.path} has no {DIAGNOSTICS_FILE}. Run `reinfuse diagnose {self.path}` first.")
        return self._read_json(DIAGNOSTICS_FILE)

    @property
    def figures(self) -> Path:
        """The folder for figures, made if need be."""
        folder = self.path / FIGURES_FOLDER
        folder.mkdir(exist_ok=True)
        return folder

    def write_report(self, html: str) -> Path:
        """Write `report.html` and return its path."""
        write_whole(self.path / REPORT_FILE, lambda temporary: temporary.write_text(html, encoding="utf-8"))
        return self.path / REPORT_FILE

    # ------------------------------------------------------------------ inside

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(_finite(dict(content)), indent=2, ensure_ascii=False, default=_plain, allow_nan=False)
        write_whole(self.path / name, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))

    def _read_json(self, name: str) -> dict[str, Any]:
        file = self.path / name
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as fault:
            raise ReinfuseError(f"{file} is not readable as JSON ({fault}). Restore it, or fit again.") from None
        if not isinstance(content, dict):
            raise ReinfuseError(f"{file} holds a {type(content).__name__}, not an object. Restore it, or fit again.")
        return content

    def _record(self, name: str) -> str:
        digest = sha256_of(self.path / name)
        if (self.path / RUN_FILE).is_file():
            written = self.provenance
            self._write_json(RUN_FILE, {**written, "files": {**written.get("files", {}), name: digest}})
        return digest

    def _check_sum(self, name: str) -> None:
        wanted = self.provenance.get("files", {}).get(name)
        file = self.path / name
        if wanted is None:
            return
        if not file.is_file():
            raise ReinfuseError(f"{self.path} lacks {name}, which {RUN_FILE} names. Restore it, or fit again.")
        seen = sha256_of(file)
        if seen != wanted:
            raise ReinfuseError(
                f"{file} has changed since the run was written: SHA-256 {seen[:12]}…, recorded "
                f"{wanted[:12]}…. Restore it, or fit again."
            )


def check_layout(tree: xr.DataTree, *, where: str) -> None:
    """Check that a tree of draws has the groups, variables and dimensions of `LAYOUT`.

    Raises
    ------
    ReinfuseError
        Naming everything that is missing or of another shape.
    """
    faults = []
    for group, variables in LAYOUT.items():
        if group not in tree.children:
            faults.append(f"group /{group} is missing")
            continue
        dataset = tree.children[group].to_dataset()
        for variable, dims in variables.items():
            if variable not in dataset.variables:
                faults.append(f"/{group}/{variable} is missing")
            elif tuple(map(str, dataset[variable].dims)) != dims:
                faults.append(f"/{group}/{variable} has dimensions {tuple(dataset[variable].dims)}, not {dims}")
    if faults:
        raise ReinfuseError(f"{where} is not a posterior of reinfuse: {'; '.join(faults)}. Fit again.")


def _write_tree(tree: xr.DataTree, file: Path) -> None:
    tree.to_netcdf(file, engine="h5netcdf")


def _read_tree(file: Path) -> xr.DataTree:
    try:
        with xr.open_datatree(file, engine="h5netcdf") as tree:
            return tree.load()
    except (OSError, ValueError, KeyError) as fault:
        raise ReinfuseError(f"{file} is not readable as NetCDF-4 ({fault}). Restore it, or fit again.") from None


def _by_cutoff(forecast: xr.Dataset) -> xr.Dataset:
    """Forecasts in the present layout: those of earlier versions had their one cut-off in the attributes."""
    if "cutoff_day" not in forecast.attrs:
        return forecast
    cutoff = float(forecast.attrs["cutoff_day"])
    result = forecast.drop_attrs(deep=False).assign(cutoff_day=("row", np.full(forecast.sizes["row"], cutoff)))
    result = result.assign(log_weight=xr.zeros_like(forecast["prediction"]))
    if "risk" in result:
        result = result.assign(risk=result["risk"].expand_dims(cutoff=[cutoff]))
    return result


def _plain(value: object) -> object:
    """Turn NumPy scalars, arrays, paths and sets into what JSON can hold."""
    if isinstance(value, np.generic | np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


def _finite(value: Any) -> Any:
    """Replace infinite and undefined floats by None, all the way down: JSON has no word for them."""
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _some(names: Sequence[str], most: int = 4) -> str:
    """Return the first few names, and how many more."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
