"""`import triptych` is quick, starts nothing and changes no setting of the user's."""

from __future__ import annotations

import subprocess
import sys

import pytest

import triptych


def python(source: str) -> str:
    """Run a program in a fresh interpreter and give back what it printed."""
    done = subprocess.run([sys.executable, "-c", source], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_front_door_loads_nothing_heavy() -> None:
    loaded = python(
        "import sys, triptych; print(sorted({'jax', 'numpyro', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    assert loaded == "[]"


def test_no_backend_starts_and_no_setting_changes() -> None:
    source = """
import jax, numpy, numpyro
before = dict(jax.config.values), numpy.geterr()
import triptych
for name in triptych.__all__:
    getattr(triptych, name)
from jax._src import xla_bridge
changed = {k for k, v in jax.config.values.items() if before[0].get(k) != v}
print(sorted(changed), numpy.geterr() == before[1], sorted(xla_bridge._backends))
"""
    assert python(source) == "[] True []"


@pytest.mark.parametrize("name", triptych.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(triptych, name)
    assert name == "__version__" or value.__doc__


def test_an_unknown_name_is_refused_as_usual() -> None:
    with pytest.raises(AttributeError, match="no attribute 'EMM'"):
        _ = triptych.EMM  # pyright: ignore
