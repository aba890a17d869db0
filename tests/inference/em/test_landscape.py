"""Optima told apart by height, points by their values whatever their labels, and both in words."""

import numpy as np
import xarray as xr

from triptych.inference.em.landscape import landscape_words, optima_of, places


def test_an_optimum_is_a_height():
    gap = np.array([3.05, 0.0, np.nan, 1e-7, 12.0, 3.0, 0.09, 3.11])
    # 3.11 is more than a tenth below the highest of its neighbours.
    np.testing.assert_array_equal(optima_of(gap), [1, 0, -1, 0, 3, 1, 0, 2])


def test_a_point_is_the_same_under_other_labels():
    weights = np.array([[0.2, 0.8], [0.8, 0.2], [0.5, 0.5], [0.2001, 0.7999]])
    means = np.array([[[0.0], [5.0]], [[5.0], [0.0]], [[0.0], [5.0]], [[0.001], [5.001]]])
    parameters = {"weights": weights, "means": means}
    assert places(parameters, np.array([0, 1, 3])) == 1
    assert places(parameters, np.array([0, 1, 2, 3])) == 2


def table(starts, gaps, collapsed=None, spread=1):
    count = sum(starts)
    return xr.Dataset(
        {
            "optimum": ("restart", np.repeat(np.arange(len(starts)), starts)),
            "optimum_starts": ("optimum_number", np.array(starts)),
            "optimum_gap": ("optimum_number", np.array(gaps)),
            "optimum_places": ("optimum_number", np.array([spread] + [1] * (len(starts) - 1))),
            "optimum_collapsed": ("optimum_number", np.array(collapsed or [False] * len(starts))),
        },
        coords={"restart": np.arange(count)},
    )


def test_the_landscape_in_words():
    assert landscape_words(table([5], [0.0])) == "All 5 starts came to one optimum."
    said = landscape_words(table([7, 2, 1], [0.0, 0.83, 15.2], [False, False, True]))
    assert said == (
        "7 of 10 starts came to the best optimum. 2 others: 0.83 nats below (2 starts), 15.20 nats below "
        "(1 start, collapsed)."
    )
    assert "There may be a better one" in landscape_words(table([1, 4], [0.0, 2.0]))
    assert "2 different points of that height" in landscape_words(table([3, 1], [0.0, 1.0], spread=2))
