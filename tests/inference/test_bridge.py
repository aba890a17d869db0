"""Bridge sampling against evidences in closed form, with posterior draws that need no chain."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gammaln

from triptych.inference.bridge import bridge, fit_student, halves


def crossed(u, log_joint, random, proposals=1000):
    """Bridge crosswise between the halves of draws (chain, draw, p): nats and standard error."""
    first, second = halves(u)
    found = []
    for fitted, used in ((second, first), (first, second)):
        student = fit_student(fitted.reshape(-1, u.shape[-1]))
        other = student.sample(random, proposals)
        flat = used.reshape(-1, u.shape[-1])
        ratio = (log_joint(flat) - student.log_density(flat)).reshape(used.shape[:2])
        found.append(bridge(ratio, log_joint(other) - student.log_density(other)))
    assert all(one.converged for one in found)
    return np.mean([one.nats for one in found]), np.hypot(*[one.standard_error for one in found]) / 2


class Regression:
    """y ~ N(Xw, 1/β), w ~ N(0, 1/(λβ)), β ~ Gamma(a, b): conjugate, in u = (w, log β) skewed."""

    def __init__(self, random, N, D):
        self.lam, self.a, self.b = 0.5, 2.0, 1.0
        self.X = random.normal(size=(N, D)) @ random.normal(size=(D, D))
        self.y = self.X @ random.normal(size=D) + random.normal(size=N)
        self.precision = self.X.T @ self.X + self.lam * np.eye(D)
        self.mean = np.linalg.solve(self.precision, self.X.T @ self.y)
        self.shape = self.a + N / 2
        self.rate = self.b + 0.5 * (self.y @ self.y - self.mean @ self.precision @ self.mean)

    @property
    def evidence(self):
        N, D = self.X.shape
        value = -0.5 * N * np.log(2 * np.pi) + 0.5 * D * np.log(self.lam)
        value -= 0.5 * np.linalg.slogdet(self.precision)[1]
        value += self.a * np.log(self.b) - gammaln(self.a) + gammaln(self.shape)
        return value - self.shape * np.log(self.rate)

    def draw(self, random, count):
        beta = random.gamma(self.shape, 1 / self.rate, size=count)
        factor = np.linalg.inv(np.linalg.cholesky(self.precision)).T
        noise = random.normal(size=(count, len(self.mean)))
        w = self.mean + (noise @ factor.T) / np.sqrt(beta)[:, None]
        return np.column_stack([w, np.log(beta)])

    def log_joint(self, u):
        (N, D), w, log_beta = self.X.shape, u[:, :-1], u[:, -1]
        beta = np.exp(log_beta)
        misfit = np.sum((self.y - w @ self.X.T) ** 2, axis=1)
        value = 0.5 * N * (log_beta - np.log(2 * np.pi)) - 0.5 * beta * misfit
        value += 0.5 * D * (np.log(self.lam / (2 * np.pi)) + log_beta)
        value -= 0.5 * self.lam * beta * np.sum(w**2, axis=1)
        value += self.a * np.log(self.b) - gammaln(self.a) + (self.a - 1) * log_beta - self.b * beta
        return value + log_beta


def test_the_error_bar_covers_the_evidence_of_fifty_regressions():
    random = np.random.default_rng(0)
    z = []
    for _ in range(50):
        model = Regression(random, N=int(random.integers(3, 30)), D=int(random.integers(1, 8)))
        u = model.draw(random, 1000).reshape(4, 250, -1)
        nats, error = crossed(u, model.log_joint, random)
        assert error < 0.1
        z.append((nats - model.evidence) / error)
    # Of 50 intervals of 95 % fewer than 43 hold with probability 0.002 where the errors are right.
    assert np.sum(np.abs(z) < 1.96) >= 43
    assert 0.6 < np.std(z) < 1.4


def test_draws_that_hang_together_have_a_larger_error():
    random = np.random.default_rng(1)
    rho, count = 0.99, 2000
    steps = random.normal(size=(4, count)) * np.sqrt(1 - rho**2)
    chain = np.zeros((4, count))
    chain[:, 0] = random.normal(size=4)
    for t in range(1, count):
        chain[:, t] = rho * chain[:, t - 1] + steps[:, t]

    def log_joint(u):
        return -0.5 * u[:, 0] ** 2

    exact = 0.5 * np.log(2 * np.pi)
    nats, error = crossed(chain[..., None], log_joint, random, proposals=50_000)
    independent = random.normal(size=(4, count, 1))
    _, smaller = crossed(independent, log_joint, random, proposals=50_000)
    assert abs(nats - exact) < 4 * error
    assert error > 1.3 * smaller


def test_a_student_is_the_density_it_draws_from():
    random = np.random.default_rng(2)
    student = fit_student(random.normal(size=(500, 2)) @ np.array([[2.0, 1.0], [0.0, 0.1]]))
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 401)] * 2), axis=-1).reshape(-1, 2)
    wide = 60 * student.factor  # covers all but a sliver of a t with 8 degrees of freedom
    mass = np.sum(np.exp(student.log_density(student.location + grid @ wide.T)))
    mass *= np.linalg.det(wide) * (2 / 400) ** 2
    assert mass == pytest.approx(1, abs=1e-3)
    drawn = student.sample(random, 200_000)
    np.testing.assert_allclose(drawn.mean(axis=0), student.location, atol=0.02)
    expected = student.factor @ student.factor.T * 8 / 6
    np.testing.assert_allclose(np.cov(drawn.T), expected, rtol=0.05, atol=0.02)


def test_draws_that_never_move_are_refused():
    with pytest.raises(np.linalg.LinAlgError):
        fit_student(np.zeros((100, 2)))


def test_densities_that_are_not_finite_give_no_evidence():
    found = bridge(np.full((1, 10), np.nan), np.zeros(10))
    assert np.isnan(found.nats)
    assert not found.converged
