"""Several repeats, in turn: whatever disturbs the machine disturbs all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

import numpy as np

SHORTEST = 0.1  # s; quicker calls are repeated within one sample


def seconds(action: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turn(
    actions: Mapping[str, Callable[[], Any]], repeats: int, progress: Callable[[str], None] | None = None
) -> dict[str, list[float]]:
    """Seconds of a call of each action, which has been called before: one sample of each, then the next round."""
    calls = {name: max(1, ceil(SHORTEST / max(seconds(action), 1e-9))) for name, action in actions.items()}
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repeats):
        if progress:
            progress(f"round {turn + 1} of {repeats}")
        for name, action in actions.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                action()
            samples[name].append((time.perf_counter() - start) / calls[name])
    return samples


def spread(samples: list[float], by: float = 1.0) -> dict[str, float]:
    """Median and quartiles, each times ``by``."""
    low, middle, high = np.quantile(np.array(samples) * by, [0.25, 0.5, 0.75])
    return {"median": float(middle), "q1": float(low), "q3": float(high)}
