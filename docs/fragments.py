"""Parts of pages that commands write: a line that says how it was made, and Markdown below it."""

import json
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"


def write(name: str, made: str, text: str) -> None:
    """One part of a page, into ``docs/generated``."""
    (DOCS / "generated" / f"{name}.md").write_text(f"{made}.\n\n{text}\n", encoding="utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """A run.json or the like."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def made_by(command: str, file: Path, *packages: str) -> str:
    """The command behind a run.json, the day on which it was written, and versions."""
    written = date.fromtimestamp(file.stat().st_mtime)
    return f"`make {command}`, {written}; {versions(read_json(file), 'reinfuse', 'numpy', *packages)}"


def versions(run: dict[str, Any], *names: str) -> str:
    """Names and versions, of those in a run.json."""
    return ", ".join(f"{name} {run['versions'][name]}" for name in names)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows as Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def share(value: float) -> str:
    """A share in per cent."""
    return "–" if pd.isna(value) else f"{value:.0%}".replace("%", " %")
