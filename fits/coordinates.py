"""The coordinates in which we sample: conditional Gaussian sites for the patients, whitened population values.

Patient ``i`` has deviations ``b_i`` with prior N(0, diag(sd^2)) and a log-likelihood that is close to a quadratic in
``(b_i, h)``, where ``h`` holds all population values: precision ``H_i``, linear term ``g_i``, cross term ``F_i``. Given
``h``, ``b_i`` is then Gaussian with precision ``P_i = H_i + diag(1 / sd^2) = L L'`` and

    b_i = L^-T (L^-1 (g_i - F_i (h - h0)) + z_i),      h = h0 + R u.

We sample ``(u, z)``. Where the quadratic is right, ``z`` is standard normal for every ``h``, so neither the funnel in
``sd`` nor the correlation of patients with population is left; where it is wrong, the Jacobian (minus the sum of the
logarithms of the diagonals of ``L``) keeps the target exact all the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]
type LogDensity = Callable[[Floats], tuple[float, Floats]]


@dataclass(frozen=True)
class Layout:
    """Where things are in the flat vector of the statistical model.

    Attributes
    ----------
    hyper
        (d,) positions of population values.
    block
        (n, q) positions of each patient's deviations.
    log_sd
        (q,) for each deviation, the place *within hyper* of the logarithm of its sd.
    """

    hyper: Integers
    block: Integers
    log_sd: Integers

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return int(self.hyper.size + self.block.size)


@dataclass(frozen=True)
class Sites:
    """The quadratic approximations of all patients: precision (n, q, q), linear (n, q), cross (n, q, d)."""

    precision: Floats
    linear: Floats
    cross: Floats


@dataclass(frozen=True)
class Coordinates:
    """The map from ``(u, z)`` to the flat vector of the statistical model, and back."""

    layout: Layout
    centre: Floats
    scale: Floats
    sites: Sites

    def expand(self, w: Floats) -> tuple[Floats, float]:
        """The flat vector at ``w = (u, z)``, and the logarithm of the Jacobian (up to a constant)."""
        lay = self.layout
        h, b, *_, logdet = _forward(w, self.centre, self.scale, *self._sites(), lay.log_sd)
        return _join(h, b, lay.hyper, lay.block), logdet

    def _sites(self) -> tuple[Floats, Floats, Floats]:
        return self.sites.precision, self.sites.linear, self.sites.cross

    def density(self, log_density: LogDensity) -> LogDensity:
        """The target in ``w``: value and gradient."""
        lay = self.layout

        def target(w: Floats) -> tuple[float, Floats]:
            h, b, factor, mean, logdet = _forward(w, self.centre, self.scale, *self._sites(), lay.log_sd)
            value, gradient = log_density(_join(h, b, lay.hyper, lay.block))
            back = _backward(
                h, b, factor, mean, gradient[lay.hyper], gradient[lay.block], self.scale, *self._sites(), lay.log_sd
            )
            return float(value) + logdet, back

        return target

    def roots(self, h: Floats) -> Floats:
        """For a population: ``L^-T`` of every patient, (n, q, q), the scale of its deviations."""
        precision = self.sites.precision + np.diag(np.exp(-2.0 * h[self.layout.log_sd]))
        return np.linalg.inv(np.linalg.cholesky(precision)).transpose(0, 2, 1)

    def contract(self, x: Floats) -> Floats:
        """``w`` at a flat vector: the inverse of `expand`."""
        lay = self.layout
        h, b = x[lay.hyper], x[lay.block]
        u = np.linalg.solve(self.scale, h - self.centre)
        z = np.empty_like(b)
        inverse_variance = np.exp(-2.0 * h[lay.log_sd])
        for i in range(b.shape[0]):
            factor = np.linalg.cholesky(self.sites.precision[i] + np.diag(inverse_variance))
            shifted = self.sites.linear[i] - self.sites.cross[i] @ (h - self.centre)
            z[i] = factor.T @ b[i] - np.linalg.solve(factor, shifted)
        return np.concatenate([u, z.ravel()])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _join(h: Floats, b: Floats, hyper: Integers, block: Integers) -> Floats:
    x = np.empty(hyper.size + block.size)
    for k in range(hyper.size):
        x[hyper[k]] = h[k]
    for i in range(block.shape[0]):
        for k in range(block.shape[1]):
            x[block[i, k]] = b[i, k]
    return x


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _forward(
    w: Floats, centre: Floats, scale: Floats, precision: Floats, linear: Floats, cross: Floats, log_sd: Integers
) -> tuple[Floats, Floats, Floats, Floats, float]:
    """Population values, deviations, Cholesky factors, means ``L^-1 (...)`` and the log-Jacobian."""
    n, q = linear.shape
    d = centre.size
    shift = scale @ w[:d]
    h = centre + shift
    b = np.empty((n, q))
    factor = np.zeros((n, q, q))
    mean = np.empty((n, q))
    logdet = 0.0
    for i in range(n):
        low = factor[i]
        for r in range(q):
            for c in range(r + 1):
                s = precision[i, r, c]
                if r == c:
                    s += np.exp(-2.0 * h[log_sd[r]])
                for k in range(c):
                    s -= low[r, k] * low[c, k]
                low[r, c] = np.sqrt(s) if r == c else s / low[c, c]
            logdet -= np.log(low[r, r])
        for r in range(q):
            s = linear[i, r]
            for k in range(d):
                s -= cross[i, r, k] * shift[k]
            for k in range(r):
                s -= low[r, k] * mean[i, k]
            mean[i, r] = s / low[r, r]
        for r in range(q - 1, -1, -1):
            s = mean[i, r] + w[d + i * q + r]
            for k in range(r + 1, q):
                s -= low[k, r] * b[i, k]
            b[i, r] = s / low[r, r]
    return h, b, factor, mean, logdet


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _backward(
    h: Floats,
    b: Floats,
    factor: Floats,
    mean: Floats,
    g_h: Floats,
    g_b: Floats,
    scale: Floats,
    precision: Floats,
    linear: Floats,
    cross: Floats,
    log_sd: Integers,
) -> Floats:
    """Gradient by ``w`` from the gradients by population values and deviations."""
    n, q = linear.shape
    d = h.size
    result = np.empty(d + n * q)
    shift_bar = g_h.copy()
    half = np.empty(q)  # adjoint of mean + z
    right = np.empty(q)  # adjoint of the right-hand side g - F (h - h0)
    low_bar = np.empty((q, q))
    work = np.empty((q, q))
    row = np.empty(q)
    for i in range(n):
        low = factor[i]
        for r in range(q):
            s = g_b[i, r]
            for k in range(r):
                s -= low[r, k] * half[k]
            half[r] = s / low[r, r]
            result[d + i * q + r] = half[r]
        for r in range(q - 1, -1, -1):
            s = half[r]
            for k in range(r + 1, q):
                s -= low[k, r] * right[k]
            right[r] = s / low[r, r]
        for r in range(q):
            for k in range(d):
                shift_bar[k] -= right[r] * cross[i, r, k]
        for r in range(q):
            for c in range(r + 1):
                low_bar[r, c] = -b[i, r] * half[c] - right[r] * mean[i, c]
            low_bar[r, r] -= 1.0 / low[r, r]
        # adjoint of the Cholesky factor; only the diagonal of P depends on anything
        for r in range(q):
            for c in range(r + 1):
                s = 0.0
                for k in range(r, q):
                    s += low[k, r] * low_bar[k, c]
                work[r, c] = s if r > c else 0.5 * s
        for c in range(q):
            for r in range(q - 1, -1, -1):
                s = work[r, c] if r >= c else 0.0
                for k in range(r + 1, q):
                    s -= low[k, r] * work[k, c]
                work[r, c] = s / low[r, r]
        for r in range(q):
            for c in range(q - 1, -1, -1):
                s = work[r, c]
                for k in range(c + 1, q):
                    s -= row[k] * low[k, c]
                row[c] = s / low[c, c]
            shift_bar[log_sd[r]] -= 2.0 * np.exp(-2.0 * h[log_sd[r]]) * row[r]
    result[:d] = scale.T @ shift_bar
    return result
