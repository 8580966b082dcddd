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

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.kernels.policy import kernel

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

    @property
    def arrays(self) -> tuple[Floats, Floats, Floats]:
        """All three."""
        return self.precision, self.linear, self.cross


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
        h, b, *_, logdet = forward(w, self.centre, self.scale, *self.sites.arrays, lay.log_sd)
        return _join(h, b, lay.hyper, lay.block), logdet

    def density(self, log_density: LogDensity) -> LogDensity:
        """The target in ``w``: value and gradient."""
        lay = self.layout

        def target(w: Floats) -> tuple[float, Floats]:
            h, b, factor, mean, logdet = forward(w, self.centre, self.scale, *self.sites.arrays, lay.log_sd)
            value, gradient = log_density(_join(h, b, lay.hyper, lay.block))
            g_h, g_b = gradient[lay.hyper], gradient[lay.block]
            back = backward(h, b, factor, mean, g_h, g_b, self.scale, *self.sites.arrays, lay.log_sd)
            return float(value) + logdet, back

        return target

    def roots(self, h: Floats) -> Floats:
        """For a population: ``L^-T`` of every patient, (n, q, q), the scale of its deviations."""
        return np.linalg.inv(self._factors(h)).transpose(0, 2, 1)

    def given(self, h: Floats) -> tuple[Floats, Floats]:
        """For a population: mean (n, q) and root (n, q, q) of every patient's deviations, by its Gaussian site."""
        root = self.roots(h)
        shifted = self.sites.linear - self.sites.cross @ (h - self.centre)
        return np.einsum("nqr,nsr,ns->nq", root, root, shifted), root

    def contract(self, x: Floats) -> Floats:
        """``w`` at a flat vector: the inverse of `expand`."""
        return self.joined(x[self.layout.hyper], x[self.layout.block])

    def joined(self, h: Floats, b: Floats) -> Floats:
        """``w`` at a population and deviations."""
        u = np.linalg.solve(self.scale, h - self.centre)
        return np.concatenate([u, self.standardised(h, b).ravel()])

    def standardised(self, h: Floats, b: Floats) -> Floats:
        """``z`` (n, q) at a population and deviations."""
        mean, _ = self.given(h)
        return np.asarray(np.einsum("nrq,nr->nq", self._factors(h), b - mean))

    def parted(self, w: Floats) -> tuple[Floats, Floats]:
        """Population and deviations (n, q) at ``w``."""
        h, b, *_ = forward(w, self.centre, self.scale, *self.sites.arrays, self.layout.log_sd)
        return h, b

    def _factors(self, h: Floats) -> Floats:
        """``L`` (n, q, q)."""
        return np.linalg.cholesky(self.sites.precision + np.diag(np.exp(-2.0 * h[self.layout.log_sd])))


@kernel
def _join(h: Floats, b: Floats, hyper: Integers, block: Integers) -> Floats:
    x = np.empty(hyper.size + block.size)
    for k in range(hyper.size):
        x[hyper[k]] = h[k]
    for i in range(block.shape[0]):
        for k in range(block.shape[1]):
            x[block[i, k]] = b[i, k]
    return x


@kernel
def forward(
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


@kernel
def backward(
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
    """Gradient by ``w`` of a target and the log-Jacobian, from the target's by population values and deviations."""
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
