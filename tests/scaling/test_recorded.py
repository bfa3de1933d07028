"""The recording that notebook 02 fits its law to: enough runs, whole, and what the notebook says of it."""

import numpy as np
import pytest

from nl_course.errors import CourseError
from nl_course.record.provenance import read_config
from nl_course.scaling import fit_law, own_runs


def test_at_least_twelve_models_with_their_provenance():
    runs = own_runs()
    config = runs.about["config"]
    assert len(runs.loss) == len(config["models"]) * len(config["tokens"]) >= 12
    assert {"command", "commit", "device", "wall_seconds", "torch", "python", "threads"} <= set(runs.about)
    assert config == read_config("scaling")  # the recording is of the config that stands beside it


def test_losses_are_means_over_positions():
    runs = own_runs()
    assert runs.by_position.shape == (len(runs.loss), runs.about["config"]["length"])
    assert np.allclose(runs.by_position.mean(axis=1), runs.loss, atol=1e-4)
    assert np.allclose(runs.by_context()[:, -1], runs.loss, atol=1e-4)
    assert np.array_equal(runs.by_context()[:, 0], runs.by_position[:, 0])
    assert np.array_equal(runs.flops, 6 * runs.parameters * runs.tokens)


def test_more_text_helped_every_size():
    runs = own_runs()
    for size in np.unique(runs.parameters):
        same = runs.where(runs.parameters == size)
        assert (np.diff(same.loss[np.argsort(same.tokens)]) < 0).all()


def test_the_fit_is_near_its_points_and_its_intervals_hold_its_values():
    runs = own_runs()
    fit = fit_law(runs.parameters, runs.tokens, runs.loss, resamples=40)
    assert fit.residual < 0.05
    for name in fit.names:
        low, high = fit.interval(name)
        assert low <= fit.values[name] <= high


def test_an_empty_choice_is_named():
    runs = own_runs()
    with pytest.raises(CourseError, match="no recorded run is left"):
        runs.where(runs.parameters < 0)
