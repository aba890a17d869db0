"""Tables read in blocks: whatever is wrong with a file is one clear line, and buffers mix no blocks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import triptych
from triptych.inference import rows as reading
from triptych.inference.row_files import StoredRows
from triptych.models.errors import InputError


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make blocks of some hundred rows."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", 4000)


@pytest.fixture
def x() -> np.ndarray:
    """Give (1203, 3)."""
    return np.random.default_rng(0).normal(size=(1203, 3))


def test_blocks_stay_whole_until_the_second_after_them(x: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x)
    rows = triptych.rows(tmp_path / "x.npy")
    assert isinstance(rows.array, StoredRows)
    for _ in range(2):  # the second pass reads into the buffers of the first
        before = None
        for index, block in enumerate(rows.blocks(100)):
            time.sleep(0.02)  # the next block is read meanwhile
            np.testing.assert_array_equal(block, x[100 * index : 100 * index + 100])
            if before is not None:
                np.testing.assert_array_equal(before, x[100 * index - 100 : 100 * index])
            before = block
    # Two passes at once have buffers of their own.
    for index, (one, two) in enumerate(zip(rows.blocks(100), rows.blocks(100), strict=True)):
        np.testing.assert_array_equal(one, x[100 * index : 100 * index + 100])
        np.testing.assert_array_equal(one, two)


def test_any_layout_and_type_of_number_is_read(x: np.ndarray, tmp_path: Path) -> None:
    kinds = {
        "half": x.astype(np.float16),
        "big_endian": x.astype(">f4"),
        "columns": np.asfortranarray(x),
        "whole": (10 * x).astype(np.int16),
        "flat": x[:, 0],
    }
    for name, array in kinds.items():
        path = tmp_path / f"{name}.npy"
        np.save(path, array)
        wide = np.float32 if name in ("half", "big_endian") else np.float64
        for source in (path, np.load(path, mmap_mode="r"), array):
            rows = triptych.rows(source)
            assert rows.dtype == wide
            read = np.concatenate([block.copy() for block in rows.blocks(500)])
            np.testing.assert_array_equal(read, array.reshape(1203, -1).astype(wide))
            np.testing.assert_array_equal(rows.take(np.array([0, 700, 1202])), read[[0, 700, 1202]])
    assert triptych.rows(x, dtype="float32").read(0, 2).dtype == np.float32


def test_csv_files_as_people_write_them(tmp_path: Path) -> None:
    import gzip

    # Whole numbers in the part that Arrow looks at, others below.
    (tmp_path / "late.csv").write_text("a,b\n" + "1,2\n" * 300_000 + "1.5,\n")
    late = triptych.rows(tmp_path / "late.csv").read(299_999, 300_001)
    np.testing.assert_array_equal(late, [[1, 2], [1.5, np.nan]])
    (tmp_path / "semicolons.csv").write_text("a;b\n1;2\n3;4\n")
    assert triptych.rows(tmp_path / "semicolons.csv").names == ("a", "b")
    (tmp_path / "bare.csv").write_text("1,2\n3,4\n")
    bare = triptych.rows(tmp_path / "bare.csv")
    assert bare.names == ("x0", "x1")
    np.testing.assert_array_equal(bare.read(0, 2), [[1, 2], [3, 4]])
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    np.testing.assert_array_equal(triptych.rows(tmp_path / "packed.csv.gz").read(0, 1), [[1, 2]])


@pytest.mark.usefixtures("small_blocks")
def test_a_file_that_changes_under_the_run_is_refused(x: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, x)
    rows = triptych.rows(path)
    blocks = rows.blocks(100)
    next(blocks)
    os.truncate(path, 5000)
    with pytest.raises(InputError, match="cut short while it was read"):
        list(blocks)
    again = rows.blocks(100)
    with pytest.raises(InputError, match="was changed while it was read"):
        next(again)


def test_rows_that_cannot_be_fitted_are_refused(x: np.ndarray, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    flags = pa.array([True, None, False] * 400)
    pq.write_table(pa.table({"a": flags, "b": pa.array(range(1200))}), tmp_path / "flags.parquet")
    (tmp_path / "late.csv").write_text("a,b\n" + "1,2\n" * 300_000 + "1,two\n")
    (tmp_path / "none.csv").write_text("a,b\n")
    (tmp_path / "bad.parquet").write_bytes(b"nonsense")
    many = np.ones((100_000, 2), np.float32)
    many[:, 0] = np.arange(100_000)
    gap = x.copy()
    gap[1100, 1] = np.inf
    em, key = triptych.EM(triptych.GaussianMixture(2), draws=0), jax.random.key(0)
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: em.run(key, triptych.rows(tmp_path / "flags.parquet")), "Row 1, column 'a' holds nan"),
        (lambda: triptych.rows(tmp_path / "late.csv"), "Row #300002.*invalid value 'two'"),
        (lambda: triptych.rows(tmp_path / "none.csv"), "0 rows and 2 columns"),
        (lambda: triptych.rows(tmp_path / "bad.parquet"), "cannot be read"),
        (lambda: triptych.rows(x.astype(complex)), "not numbers"),
        (lambda: triptych.rows(x, dtype="float16"), "choose 'float32' or 'float64'"),
        (lambda: em.run(key, triptych.rows(gap)), "Row 1,100, column 'x1' holds inf"),
        (lambda: em.run(key, triptych.rows(x[:1])), "1 row"),
        (lambda: triptych.EM(triptych.GaussianMixture(9)).run(key, triptych.rows(x[:5])), "9 components"),
        (lambda: em.run(key, triptych.rows(many)), "20,000 of the 100,000 rows.*x1 .*is constant"),
    ]
    for work, said in cases:
        with pytest.raises(InputError, match=said) as refused:
            work()
        assert "\n" not in str(refused.value)
