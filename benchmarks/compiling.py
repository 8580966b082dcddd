"""First compile: on a machine that never ran reinfuse, and of one more model; fresh processes, empty caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timing import spread


def once(*arguments: str) -> dict[str, float]:
    """Seconds until the first simulation and the first gradient (`first_compile`)."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"REINFUSE_CACHE": folder, "NUMBA_CACHE_DIR": folder}
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("first_compile.py")), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return times


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """The section of the results."""
    result: dict[str, Any] = {}
    for name, arguments in (("first_model", ()), ("new_model", ("warm",))):
        found = []
        for _ in range(1 if quick else 2):
            found.append(once(*arguments))
            say(f"{name}: " + ", ".join(f"{key} {value:.1f}" for key, value in found[-1].items()))
        result |= {f"{name}_{key}": spread([f[key] for f in found]) for key in found[0]}
    return result
