"""Frozen configuration models: one loader, dotted overrides, and errors that name the nearest key.

A recipe is a YAML file that states only what differs from the defaults. Each component keeps its own
`Config` subclass beside its code; a job's config is a tree of them.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from usfm.errors import ConfigError

__all__ = ["Config", "load_config", "parse_override"]

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every configuration model: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> Self:
        """Validate a plain mapping.

        Raises:
            ConfigError: one line per problem, each with its dotted key, what was got and what to do.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError("\n".join(_explain(cls, problem) for problem in error.errors())) from None

    def to_yaml(self) -> str:
        """The whole resolved tree as YAML, loadable again by `load_config`."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_config(cls: type[C], path: str | Path | None = None, overrides: Sequence[str] = ()) -> C:
    """Read a YAML recipe, apply `key.sub=value` overrides and validate.

    Args:
        cls: the job's config model.
        path: a YAML file, or None for the defaults.
        overrides: dotted assignments; the value is parsed as YAML (`lr=3e-4`, `organs=[heart, lung]`).

    Raises:
        ConfigError: the file is missing or not a mapping, or a key or value is wrong.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"no recipe at {path}; the built-in ones are in ray_jobs/recipes/") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not valid YAML: {error}") from None
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(f"{path} holds a {type(loaded).__name__}; a recipe is a mapping of keys")
        values = loaded or {}
    for text in overrides:
        keys, value = parse_override(text)
        _assign(values, keys, value)
    return cls.build(values)


def parse_override(text: str) -> tuple[list[str], Any]:
    """Split `a.b=value` into its key path and its YAML value.

    Raises:
        ConfigError: no `=`, an empty key, or a value that is not YAML.
    """
    key, sep, raw = text.partition("=")
    keys = key.strip().split(".")
    if not sep or not all(keys):
        raise ConfigError(f"override {text!r} is not of the form key.sub=value")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {text!r}: the value is not valid YAML: {error}") from None
    if isinstance(value, str):
        value = _number(value)
    return keys, value


def _number(text: str) -> str | float:
    """YAML 1.1 reads `3e-4` as text; people mean a number."""
    try:
        return float(text) if any(c.isdigit() for c in text) and "_" not in text else text
    except ValueError:
        return text


def _assign(values: dict[str, Any], keys: list[str], value: Any) -> None:
    node = values
    for key in keys[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{'.'.join(keys)}: {key!r} already is {child!r}, not a group of keys")
        node = child
    node[keys[-1]] = value


def _explain(cls: type[BaseModel], problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        model = _model_at(cls, path[:-1])
        known = sorted(model.model_fields) if model else []
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        prefix = ".".join(path[:-1] + [""])
        hint = f"did you mean {prefix}{near[0]}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {key}; {hint}"
    where = key or cls.__name__
    message = problem["msg"].removeprefix("Value error, ")
    got = "" if problem["type"] in ("missing", "value_error") else f" (got {problem['input']!r})"
    return f"{where}: {message}{got}"


def _model_at(cls: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = cls
    for part in path:
        if model is None or part not in model.model_fields:
            return model
        model = _nested(model.model_fields[part].annotation)
    return model


def _nested(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        if (model := _nested(inner)) is not None:
            return model
    return None
