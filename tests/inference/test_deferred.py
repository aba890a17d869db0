"""A fit's tables are laid out at the first reading, once, and travel with copies and pickles."""

import dataclasses
import functools
import pickle
from unittest import mock

import numpy as np
import xarray as xr

from triptych.inference.deferred import Deferred


@dataclasses.dataclass(frozen=True)
class Kept:
    name: str
    data: Deferred = Deferred()


def tree(number: float) -> xr.DataTree:
    return xr.DataTree(xr.Dataset({"a": number}))


def test_it_is_made_once_and_only_when_it_is_read():
    make = mock.Mock(side_effect=lambda: tree(3.0))
    kept = Kept("x", make)
    assert make.call_count == 0
    assert float(kept.data["a"]) == 3.0
    assert kept.data is kept.data
    assert make.call_count == 1


def test_a_tree_is_kept_as_it_is():
    given = tree(1.0)
    assert Kept("x", given).data is given
    assert float(dataclasses.replace(Kept("x", given), data=tree(2.0)).data["a"]) == 2.0


def test_it_has_no_default():
    with np.testing.assert_raises(TypeError):
        Kept("x")


def test_what_is_not_read_yet_can_be_pickled():
    kept = pickle.loads(pickle.dumps(Kept("x", functools.partial(tree, 5.0))))
    assert float(kept.data["a"]) == 5.0
