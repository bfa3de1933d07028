"""A fit gives back a law that was planted, and its intervals hold what they should."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nl_course.errors import CourseError
from nl_course.scaling import fit_law, fit_parameters

SIZES = np.geomspace(1e4, 1e6, 12)
N, D = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e4, 1e6, 6), np.geomspace(1e6, 1e8, 4)))


def planted(rng, noise=0.003):
    exact = 1.2 + 30 / SIZES**0.4
    return exact * np.exp(rng.normal(0, noise, SIZES.size))


@settings(max_examples=15, deadline=None)
@given(st.floats(0.5, 2.0), st.floats(0.25, 0.6), st.floats(0.5, 3.0))
def test_without_noise_the_planted_law_comes_back(floor, alpha, gap):
    scale = gap * 1e4**alpha  # so that the smallest model stands `gap` above the floor
    fit = fit_parameters(SIZES, floor + scale / SIZES**alpha, resamples=0)
    assert fit.values["floor"] == pytest.approx(floor, rel=0.01)
    assert fit.values["alpha"] == pytest.approx(alpha, rel=0.02)
    assert fit.residual < 1e-4


def test_without_noise_both_exponents_come_back():
    loss = 1.2 + 30 / N**0.4 + 300 / D**0.38
    fit = fit_law(N, D, loss, resamples=0)
    wanted = {"floor": 1.2, "A": 30, "alpha": 0.4, "B": 300, "beta": 0.38}
    assert fit.values == pytest.approx(wanted, rel=0.02)
    assert fit.law().optimum(1e13).tokens == pytest.approx(
        type(fit.law())("", "", **wanted).optimum(1e13).tokens, rel=0.05
    )


@pytest.mark.slow
def test_intervals_hold_the_planted_exponent_about_as_often_as_they_say():
    """Of 40 noisy repetitions, the 90 % interval must hold the truth in 28 (a bootstrap of 12 is narrow)."""
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(40):
        low, high = fit_parameters(SIZES, planted(rng), resamples=40).interval("alpha", 0.9)
        held += low <= 0.4 <= high
    assert held >= 28


def test_more_noise_means_wider_intervals():
    widths = []
    for noise in (0.001, 0.01):
        low, high = fit_parameters(SIZES, planted(np.random.default_rng(3), noise), resamples=60).interval("alpha")
        widths.append(high - low)
    assert widths[1] > 3 * widths[0]


def test_one_outlier_hardly_moves_it():
    """What the Huber loss is for: least squares on the logarithms would be dragged along."""
    loss = 1.2 + 30 / SIZES**0.4
    loss[5] *= 1.3
    assert fit_parameters(SIZES, loss, resamples=0).values["alpha"] == pytest.approx(0.4, rel=0.05)


def test_the_band_holds_the_curve_and_widens_beyond_the_data():
    fit = fit_parameters(SIZES, planted(np.random.default_rng(1)), resamples=100)
    low, high = fit.band(SIZES)
    assert (low <= high).all() and ((low <= fit.predict(SIZES)) & (fit.predict(SIZES) <= high)).mean() > 0.8
    beyond_low, beyond_high = fit.band(np.array([1e9]))
    assert beyond_high[0] - beyond_low[0] > np.median(high - low)


def test_the_same_seed_gives_the_same_intervals():
    loss = planted(np.random.default_rng(2))
    one, two, other = (fit_parameters(SIZES, loss, resamples=20, seed=seed).interval("alpha") for seed in (0, 0, 1))
    assert one == two != other


def test_units_do_not_matter():
    loss = planted(np.random.default_rng(4))
    fits = [fit_parameters(SIZES * unit, loss, resamples=0) for unit in (1, 1e3)]
    assert fits[0].values["alpha"] == pytest.approx(fits[1].values["alpha"], rel=1e-3)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: fit_parameters([1, 2, 3], [3, 2, 1]), "more than 3 runs"),
        (lambda: fit_law([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [5, 4, 3, 2, 1]), "more than 5 runs"),
        (lambda: fit_parameters([1, 2, 3, 4], [4, 3, 2]), "parameters must be a list as long"),
        (lambda: fit_parameters([1, 2, 3, -4], [4, 3, 2, 1]), "parameters must be finite"),
        (lambda: fit_parameters([1, 2, 3, 4], [4, 3, 2, float("nan")]), "loss must be finite"),
        (lambda: fit_parameters([1, 1, 2, 2], [4, 3, 2, 1]), "three different values"),
        (lambda: fit_parameters(SIZES, SIZES, resamples=-1), "resamples"),
        (lambda: fit_parameters(SIZES, 1 + 1 / SIZES, resamples=0).interval("alpha"), "without a bootstrap"),
        (lambda: fit_parameters(SIZES, 1 + 1 / SIZES, resamples=0).law(), "fit_law"),
    ],
)
def test_bad_input_is_named(call, names):
    with pytest.raises(CourseError, match=names):
        call()


def test_the_package_loads_neither_scipy_nor_torch():
    code = "import sys, nl_course.scaling; print({'scipy', 'torch', 'plotly'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
