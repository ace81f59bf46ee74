"""The Gaussian process against the textbook formulas, computed here the slow way."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from tuner.search.gaussian_process import regression as gp

KNOWN = gp.Hyperparameters(np.array([0.4, 0.8, 0.8]), 1.3, 0.02)


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    pool = rng.random((60, 3))
    return pool, np.sin(4 * pool[:, 0]) + pool[:, 1] + 0.3 * rng.standard_normal(60)


def covariance(a, b):
    r = np.sqrt((((a[:, None] - b[None]) / KNOWN.scales) ** 2).sum(axis=2))
    matern = (1 + np.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-np.sqrt(5) * r)
    return KNOWN.signal * matern


def exact(pool, rows, targets):
    noise = (KNOWN.noise + 1e-5 * KNOWN.signal) * np.eye(len(rows))
    inverse = np.linalg.inv(covariance(pool[rows], pool[rows]) + noise)
    cross = covariance(pool, pool[rows])
    return cross @ inverse @ targets, covariance(pool, pool) - cross @ inverse @ cross.T


def test_rows_added_one_by_one_and_taken_back_give_the_exact_posterior(data):
    pool, targets = data
    posterior = gp.Posterior(KNOWN, pool)
    rows = [5, 9, 30, 2, 41, 17, 55]
    for history in ([5], [5, 9, 30], [5, 9, 11, 12], rows):
        posterior.condition(history, pool[history])
    mean, joint = exact(pool, rows, targets[rows])
    got = posterior.mean(targets[rows], np.ones(len(rows), dtype=bool))
    assert np.allclose(got, mean, atol=1e-3)
    assert np.allclose(posterior.deviation() ** 2, np.diag(joint), atol=1e-3)


def test_rows_in_flight_lower_the_variance_and_leave_the_mean(data):
    pool, targets = data
    posterior = gp.Posterior(KNOWN, pool)
    rows = [5, 9, 30, 2, 41]
    told = np.array([True, False, True, True, False])
    posterior.condition(rows, pool[rows])
    got = posterior.mean(np.where(told, targets[rows], 99.0), told)
    finished = [r for r, t in zip(rows, told, strict=True) if t]
    mean, joint = exact(pool, finished, targets[finished])
    assert np.allclose(got, mean, atol=1e-3)
    assert (posterior.deviation()[[9, 41]] < np.sqrt(np.diag(joint))[[9, 41]]).all()


def test_draws_have_the_joint_distribution(data):
    pool, targets = data
    rows = list(range(0, 60, 6))
    posterior = gp.Posterior(KNOWN, pool)
    posterior.condition(rows, pool[rows])
    mean, joint = exact(pool, rows, targets[rows])
    chosen = np.array([1, 7, 20, 33])
    normal = np.random.default_rng(0).standard_normal((40_000, len(chosen)))
    draws = posterior.draw(posterior.mean(targets[rows], np.ones(len(rows), dtype=bool)), chosen, normal)
    assert np.allclose(draws.mean(axis=0), mean[chosen], atol=0.02)
    assert np.allclose(np.cov(draws.T), joint[np.ix_(chosen, chosen)], atol=0.02)


def test_the_gradient_of_the_evidence_is_its_slope(data):
    pool, targets = data
    rows = slice(0, 25)
    evidence = gp._Evidence(pool[rows], np.array([0, 1, 1]), targets[rows], gp.Prior())
    x = evidence.middle + np.linspace(-0.4, 0.5, len(evidence.middle))
    numeric = approx_fprime(x, lambda y: evidence(y)[0], 1e-6)
    assert np.allclose(evidence(x)[1], numeric, rtol=1e-3, atol=1e-3)


def test_the_fit_tells_a_column_that_matters_from_one_that_does_not(data):
    pool, _ = data
    found = gp.fit(pool, [0, 1, 2], np.sin(9 * pool[:, 1]), steps=60)
    assert found.scales[1] < 0.5 * min(found.scales[0], found.scales[2])
