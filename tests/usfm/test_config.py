from pathlib import Path

import pytest

from usfm.config import Config, load_config, parse_override
from usfm.errors import ConfigError


class Inner(Config):
    lr: float = 1e-4
    steps: int = 10


class Outer(Config):
    name: str = "x"
    optim: Inner = Inner()
    maybe: Inner | None = None


def test_recipe_then_overrides(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: y\noptim: {steps: 3}\n")
    config = load_config(Outer, recipe, ["optim.lr=3e-4", "maybe.steps=7"])
    assert config == Outer(name="y", optim=Inner(lr=3e-4, steps=3), maybe=Inner(steps=7))
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert load_config(Outer, tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "unknown key optim.lrr; did you mean optim.lr?"),
        ("nam=1", "unknown key nam; did you mean name?"),
        ("maybe.stepps=1", "unknown key maybe.stepps; did you mean maybe.steps?"),
        ("qqq=1", "unknown key qqq; known keys: maybe, name, optim"),
        ("optim.steps=many", "optim.steps: Input should be a valid integer"),
        ("optim", "not of the form key.sub=value"),
        ("name.sub=1", "'name' already is 'y'"),
    ],
)
def test_a_wrong_override_is_explained(tmp_path: Path, override: str, message: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: y\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, recipe, [override])
    assert message in str(caught.value)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Outer.build({"nam": 1, "optim": {"lr": "fast"}})
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_recipe_and_a_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe at"):
        load_config(Outer, tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="a recipe is a mapping"):
        load_config(Outer, tmp_path / "list.yaml")


def test_values_are_yaml() -> None:
    assert parse_override("a.b=[1, x]") == (["a", "b"], [1, "x"])
    assert parse_override("a=1e-3") == (["a"], 1e-3)
    assert parse_override("a=2026-01-02x") == (["a"], "2026-01-02x")


def test_configs_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().name = "z"
