"""A config is read, overridden, and refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from triptych.experiments.config import Config, schema
from triptych.experiments.reading import read_experiment
from triptych.experiments.registry import METHODS, MODELS, shipped_configs
from triptych.models.errors import InputError

Writer = Callable[..., Path]


def refused(source: Any, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        read_experiment(source, overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_is_a_config(name: str) -> None:
    config = read_experiment(name).config
    assert config.name == name
    assert "em" in {fit.method for fit in config.fits.values()}
    assert config.reference == ("mcmc" if "mcmc" in config.fits else "variational")
    assert config.precision == "float64"


def test_a_shipped_config_may_be_spelt_with_a_hyphen() -> None:
    assert read_experiment("old-faithful").config.name == "old_faithful"


@pytest.mark.parametrize("name", shipped_configs())
def test_the_resolved_config_reads_back_as_itself(name: str, tmp_path: Path) -> None:
    config = read_experiment(name).config
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config.plain()))
    assert read_experiment(tmp_path / "again.yaml").config == config


def test_overrides_set_nested_keys_with_yaml_values() -> None:
    overrides = [
        "model.components=4",
        "fits.mcmc.draws=500",
        "seed=3",
        "fits.em.tol=1e-3",
        "data.columns=[waiting]",
    ]
    config = read_experiment("old_faithful", overrides).config
    assert config.model.components == 4  # type: ignore[union-attr]
    assert config.fits["mcmc"].draws == 500  # type: ignore[union-attr]
    assert config.seed == 3
    assert config.fits["em"].tol == 1e-3  # type: ignore[union-attr]
    assert config.data.columns == ["waiting"]


def test_null_removes_a_fit_and_a_removed_reference_is_replaced() -> None:
    assert list(read_experiment("old_faithful", ["fits.svi=null"]).config.fits) == ["em", "mcmc"]
    config = read_experiment("old_faithful", ["fits.mcmc=null"]).config
    assert config.reference == "svi"


def test_an_override_adds_a_fit() -> None:
    config = read_experiment("old_faithful", ["fits.mean_field={method: svi, guide: AutoNormal}"]).config
    assert config.fits["mean_field"].guide == "AutoNormal"  # type: ignore[union-attr]


def test_a_path_on_the_command_line_is_read_from_where_the_person_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.csv").write_text("a\n1\n2\n")
    monkeypatch.chdir(tmp_path)
    config = read_experiment("old_faithful", ["data.name=null", "data.path=mine.csv"]).config
    assert config.data.path == str(tmp_path / "mine.csv")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.componets=3", "unknown key 'componets' in model: did you mean 'components'?"),
        ("fits.mcmc.drawz=3", "unknown key 'drawz' in fits.mcmc: did you mean 'draws'?"),
        ("data.colums=[a]", "unknown key 'colums' in data: did you mean 'columns'?"),
        ("seedd=3", "did you mean 'seed'?"),
        ("components=3", "did you mean 'model.components'?"),
        ("model.components=0", "model.components: input should be greater than 0, found 0."),
        ("model.name=gausian_mixture", "did you mean 'gaussian_mixture'?"),
        ("fits.em.method=vi", "unknown method 'vi': did you mean 'svi'?"),
        ("fits.nuts.draws=3", "fits.nuts.method: is missing; known are em, ascent, svi, mcmc"),
        ("fits.svi.guide=AutoNormall", "did you mean 'AutoNormal'? Known are AutoBNAFNormal"),
        ("fits.nuts=null", "removes no fit: known are em, svi, mcmc."),
        ("fits={}", "fits: "),
        ("seed=-1", "seed: "),
        ("seed=x", "found 'x'"),
        ("name=a/b", "name: "),
        ("reference=nuts", "'nuts' is none of the fits (em, svi, mcmc)"),
        ("data.path=mine.csv", "exactly one of name, path and simulate (not name and path)"),
        ("data.name=null", "exactly one of name, path and simulate (none is given)"),
        ("data={name: iris, threshold: 1, equals: 2}", "threshold or equals, not both"),
        ("data.simulate={row: 3}", "unknown key 'row' in data.simulate: did you mean 'rows'?"),
        ("model.scale=x", "model.scale: "),
        ("model=3", "model.name: is missing"),
        ("seed.x=3", "seed is a int"),
        ("fits", "is not KEY=VALUE"),
        ("=3", "is not KEY=VALUE"),
        ("seed=[", "is not YAML"),
    ],
)
def test_a_wrong_override_is_refused_in_words(override: str, said: str) -> None:
    assert said in refused("old_faithful", override)


def test_each_mistake_has_its_line(config_file: Writer) -> None:
    lines = refused(config_file(sede=1, model={"name": "gaussian_mixture", "components": 0})).splitlines()
    assert len(lines) == 2
    assert all("config.yaml: " in line for line in lines)


def test_a_missing_config_names_the_nearest_shipped_one(tmp_path: Path) -> None:
    assert "did you mean 'old_faithful'?" in refused("old_fathful")
    assert "old_faithful" in refused("nothing_like_it.yaml")
    assert "is a directory" in refused(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [1\nseed: 0", "not YAML: line 2"),
        ("name: a\nname: b", "line 2, column 1: key 'name' is given twice"),
        ("- 1", "not a list"),
        ("", "not nothing"),
        ("name: \x00", "not YAML"),
        ("{}", "fits is missing"),
    ],
)
def test_what_is_not_a_config_is_refused_with_the_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert said in refused(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xff\xfe\x00\xff")
    assert "not YAML" in refused(path)


def test_the_schema_knows_every_key_and_forbids_others() -> None:
    found = schema()
    assert set(found["properties"]) == set(Config.model_fields)
    assert found["additionalProperties"] is False
    assert {"EMSettings", "GaussianMixtureSettings", "ProgramSettings"} <= set(found["$defs"])
    assert all(
        "description" in prop
        for prop in found["$defs"]["EMSettings"]["properties"].values()
        if "const" not in prop
    )


@pytest.mark.parametrize("name", [*MODELS, *METHODS])
def test_settings_are_those_of_the_class_with_its_defaults(name: str) -> None:
    import dataclasses
    import importlib

    entry = {**MODELS, **METHODS}[name]
    made = getattr(importlib.import_module(entry.module), entry.attribute)
    fields = {field.name: field for field in dataclasses.fields(made)}
    for key, setting in entry.settings.model_fields.items():
        if key in ("name", "method"):
            continue
        assert key in fields, f"{made.__name__} has no field {key}"
        field = fields[key]
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        assert setting.is_required() == (default is dataclasses.MISSING)
        assert setting.is_required() or setting.get_default(call_default_factory=True) == default


def test_the_guides_and_starts_of_a_config_are_those_of_the_methods() -> None:
    from triptych.experiments.autoguides import autoguides
    from triptych.experiments.fit_settings import EMSettings
    from triptych.inference.em.starts import RECIPES
    from triptych.inference.guides import guide_names

    assert autoguides() == tuple(sorted(guide_names()))
    assert get_args(EMSettings.model_fields["starts"].annotation) == ("portfolio", *RECIPES)
