"""Data come in as arrays of finite numbers, or are refused by row and column."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triptych.experiments.data import Data, load_data
from triptych.experiments.programs import load_model
from triptych.experiments.reading import read_experiment
from triptych.experiments.table import read_table
from triptych.models.errors import InputError


def data_of(source: Any, *overrides: str) -> Data:
    experiment = read_experiment(source, overrides)
    return load_data(experiment.config, experiment.base, load_model(experiment.config.model, experiment.base))


def csv(tmp_path: Path, text: str, name: str = "mine.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def from_file(path: Path, *overrides: str, config: str = "old_faithful") -> Data:
    return data_of(config, "data.name=null", f"data.path={path}", *overrides)


def test_shipped_data_are_the_file(faithful: np.ndarray) -> None:
    data = data_of("old_faithful")
    np.testing.assert_array_equal(data.x, faithful)
    assert data.columns == ("eruptions", "waiting")
    assert data.x.dtype == np.float64
    assert data.target is None
    assert len(data.args) == 1


def test_precision_of_the_config_is_that_of_the_arrays() -> None:
    assert data_of("old_faithful", "precision=float32").x.dtype == np.float32


def test_digits_are_binarised_and_their_labels_kept_aside() -> None:
    data = data_of("digits")
    assert data.x.shape == (1797, 64)
    assert set(np.unique(data.x)) == {0.0, 1.0}
    assert len(data.args) == 1
    assert set(np.unique(np.asarray(data.target))) == set(range(10))
    raw = read_table(read_experiment("digits").base.parent / "data" / "digits.csv.gz")
    np.testing.assert_array_equal(data.x[:, 3], raw.numbers(["p3"])[:, 0] > 7)


def test_carcinoma_counts_a_two_as_yes() -> None:
    data = data_of("carcinoma")
    raw = data_of("carcinoma", "data.equals=null").x
    np.testing.assert_array_equal(data.x, raw == 2)


def test_a_regression_is_handed_its_target_and_standard_columns() -> None:
    data = data_of("diabetes")
    X, y = data.args
    np.testing.assert_allclose(X.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(X.std(axis=0), 1)
    assert y.shape == (442,)
    assert y.max() == 346.0


def test_the_target_of_a_shipped_table_is_left_out_of_the_columns_unless_told() -> None:
    assert data_of("iris", "data={name: iris}").x.shape == (150, 4)
    assert data_of("iris", "data={name: iris, target: false}").x.shape == (150, 5)
    assert data_of("iris", "data.rows=7").x.shape == (7, 4)


def test_a_regression_without_a_target_is_refused() -> None:
    with pytest.raises(InputError, match="a regression needs an answer column"):
        data_of("diabetes", "data.target=false")


@pytest.mark.parametrize("mark", [",", ";", "\t", " "])
@pytest.mark.parametrize("header", [True, False])
def test_separators_and_headers_are_recognised(tmp_path: Path, mark: str, header: bool) -> None:
    lines = [["a", "b"]] * header + [["1", "2.5"], ["-3e2", "4"]]
    data = from_file(csv(tmp_path, "\n".join(mark.join(line) for line in lines) + "\n\n"))
    np.testing.assert_array_equal(data.x, [[1, 2.5], [-300, 4]])
    assert data.columns == (("a", "b") if header else ("x0", "x1"))


def test_a_file_may_be_gzipped_and_have_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv.gz"
    path.write_bytes(gzip.compress("\ufeffa,b\n1,2\n3,4\n".encode()))
    assert from_file(path).columns == ("a", "b")


def test_columns_are_chosen_by_name_and_pattern(tmp_path: Path) -> None:
    path = csv(tmp_path, "id,p1,p2,[q]\nx,1,2,3\ny,4,5,6\n")
    assert from_file(path, "data.columns=['[q]', 'p*']").columns == ("[q]", "p1", "p2")


def test_a_target_of_words_may_be_kept_aside_but_not_fitted(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,kind\n1,setosa\n2,virginica\n")
    assert list(np.asarray(from_file(path, "data.target=kind").target)) == ["setosa", "virginica"]
    with pytest.raises(InputError, match=r"line 2 \(row 1\), column 'kind': 'setosa' is not a number"):
        from_file(path, "data.target=kind", config="diabetes")


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("a,b\n1,2\n3,NA\n", (), r"line 3 \(row 2\), column 'b': missing cell \('NA'\)"),
        ("a,b\n1,2\n,4\n", (), r"line 3 \(row 2\), column 'a': missing cell \(''\)"),
        ("a,b\n1,nan\n3,4\n", (), r"line 2 \(row 1\), column 'b': missing cell"),
        ("a,b\n1,2\ninf,4\n", (), r"line 3 \(row 2\), column 'a': 'inf' is not finite"),
        ("1,2\n3,-inf\n", (), r"line 2 \(row 2\), column 'x1': '-inf' is not finite"),
        ("a,b\n1,two\n", (), r"line 2 \(row 1\), column 'b': 'two' is not a number"),
        ("a,b\n1,2\n3\n", (), "line 3: 1 cells, where line 1 has 2"),
        ("a,b\n1,2\n3,4,5\n", (), "line 3: 3 cells, where line 1 has 2"),
        ("a,a\n1,2\n", (), "two columns are called 'a'"),
        ("", (), "is empty"),
        ("a,b\n", (), "has a header and no rows"),
        ("a,bee\n1,2\n", ("data.columns=[be]",), "no column 'be'; did you mean 'bee'?"),
        ("a,b\n1,2\n", ("data.columns=[]",), "no column is named"),
        ("a,b\n1,2\n", ("data.columns=[a, b]", "data.target=b"), "also among data.columns"),
        ("a,b\n1,2\n", ("data.target=c",), "no column 'c'"),
        ("a,b\n1,2\n3,2\n", ("data.standardize=true",), "column 'b' is constant"),
    ],
)
def test_wrong_files_are_refused_with_the_place(
    tmp_path: Path, text: str, overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        from_file(csv(tmp_path, text), *overrides)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        from_file(path)
    path = tmp_path / "mine.csv.gz"
    path.write_bytes(b"no gzip")
    with pytest.raises(InputError, match="cannot be read"):
        from_file(path)


def test_missing_files_and_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"there is no file .*nope\.csv"):
        data_of("old_faithful", "data.name=null", "data.path=nope.csv")
    with pytest.raises(InputError, match="did you mean 'old_faithful'"):
        data_of("old_faithful", "data.name=old_fathful")


def test_simulated_data_are_the_same_for_the_same_seed_and_come_with_their_truth() -> None:
    first, again, other = data_of("two_coins"), data_of("two_coins"), data_of("two_coins", "seed=1")
    np.testing.assert_array_equal(first.x, again.x)
    assert first.sha256 == again.sha256 != other.sha256
    assert first.x.shape == (1000, 2)
    assert first.truth is not None
    np.testing.assert_array_equal(first.truth["heads"], [0.25, 0.85])
    heads = first.x[first.truth["coin"] == 1].mean()
    assert abs(heads - 0.85) < 4 * np.sqrt(0.85 * 0.15 / 1200)


def test_built_in_models_simulate_too() -> None:
    data = data_of("old_faithful", "data={simulate: {rows: 50, columns: 3}}")
    assert data.x.shape == (50, 3)
    data = data_of("diabetes", "data={simulate: {rows: 50, columns: 3}}")
    assert [a.shape for a in data.args] == [(50, 3), (50,)]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.simulate.parameters={hed: [0.1, 0.2]}", "hed"),
        ("data.simulate.parameters={heads: [0.1, 0.2, 0.3]}", "heads"),
        ("data.simulate.parameters={heads: [a, b]}", "heads"),
        ("data.simulate.columns=3", "columns"),
    ],
)
def test_wrong_simulations_are_refused(override: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        data_of("two_coins", override)


def test_missing_cells_are_kept_when_asked_for_and_the_columns_standardised_without_them() -> None:
    data = data_of("airquality")
    assert data.columns == ("Ozone", "Solar.R", "Wind", "Temp")
    np.testing.assert_array_equal(np.isnan(data.x).sum(axis=0), [37, 7, 0, 0])
    standard = data_of("airquality", "data.standardize=true").x
    np.testing.assert_allclose(np.nanmean(standard, axis=0), 0.0, atol=1e-12)
    with pytest.raises(InputError, match=r"column 'Ozone': missing cell \('NA'\).*data.missing=keep"):
        data_of("airquality", "data.missing=refuse")


def test_labels_are_numbers_or_names_and_blank_where_unknown(tmp_path: Path) -> None:
    text = "a,kind,b\n1,setosa,2\n3,,4\n5,virginica,7\n7,setosa,1\n"
    data = from_file(csv(tmp_path, text), "data.labels=kind")
    assert data.columns == ("a", "b")
    assert [arg.tolist() for arg in data.args] == [[[1, 2], [3, 4], [5, 7], [7, 1]], [0, -1, 1, 0]]
    numbers = csv(tmp_path, "a,kind,b\n1,1,2\n3,NA,4\n5,-1,7\n7,0,1\n")
    assert from_file(numbers, "data.labels=kind").args[1].tolist() == [1, -1, -1, 0]
    assert data_of("iris", "data.labels=target").target is None
    assert data_of("iris", "data.labels=target").args[1].tolist() == [0] * 50 + [1] * 50 + [2] * 50
    for text, overrides, said in (
        ("a,kind\n1,0.5\n2,1\n", (), r"data.labels: row 1 of .* has '0.5' in 'kind'"),
        ("a,kind\n1,\n2,NA\n", (), "blank in every row"),
        ("a,b\n1,2\n2,1\n", (), "data.labels: .* has no column 'kind'"),
    ):
        with pytest.raises(InputError, match=said):
            from_file(csv(tmp_path, text), "data.labels=kind", *overrides)
    with pytest.raises(InputError, match="only a gaussian_mixture takes labels"):
        data_of("carcinoma", "data.labels=V1")


def test_rows_are_held_out_by_the_seed_and_scaled_by_the_others() -> None:
    data = data_of("diabetes", "data.holdout=0.2")
    X, y = data.args
    held_X, held_y = data.held_out  # type: ignore[misc]
    assert X.shape == (354, 10)
    assert held_X.shape == (88, 10)
    assert held_y.shape == (88,)
    np.testing.assert_allclose(X.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(X.std(axis=0), 1)
    everything = data_of("diabetes", "data.standardize=false")
    together = np.sort(np.concatenate([y, held_y]))
    np.testing.assert_array_equal(together, np.sort(everything.args[1]))
    assert len(data_of("diabetes", "data.holdout=7").held_out[0]) == 7  # type: ignore[index]
    other = data_of("diabetes", "data.holdout=0.2", "seed=9")
    assert not np.array_equal(other.held_out[1], held_y)  # type: ignore[index]
    with pytest.raises(InputError, match="leaves none to fit"):
        data_of("diabetes", "data.holdout=442")
