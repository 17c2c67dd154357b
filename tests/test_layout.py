"""Who may import whom, what importing does, and that the README and the recipes are true."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("usfm", "ray_jobs", "serve_apps")
LAYERS = (
    ("config", "draws", "errors", "file_hash", "kinds", "rng"),
    ("data", "masking", "losses", "models", "metrics"),
    ("train",),
    ("predict", "report"),
)


def modules(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


def imports(module: str) -> set[str]:
    """Every module that a module's source imports, at top level or inside functions."""
    path = ROOT.joinpath(*module.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} uses a relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("usfm", {"ray", "ray_jobs", "serve_apps"}), ("ray_jobs", {"serve_apps"}), ("serve_apps", {"ray_jobs"})],
)
def test_who_may_import_whom(package: str, forbidden: set[str]) -> None:
    for module in modules(package):
        roots = {name.split(".")[0] for name in imports(module)}
        assert not roots & forbidden, f"{module} imports {roots & forbidden}"


def test_layers_inside_usfm() -> None:
    level = {name: n for n, layer in enumerate(LAYERS) for name in layer}
    for module in modules("usfm"):
        parts = module.split(".")
        if len(parts) < 2:
            continue
        for name in imports(module):
            target = name.split(".")
            if target[0] == "usfm" and len(target) > 1:
                assert level[target[1]] <= level[parts[1]], f"{module} imports {name} from a higher layer"


def test_every_module_imports_alone_and_quietly(tmp_path: Path) -> None:
    """One fresh interpreter for each would take minutes; a single one drops our modules in between."""
    program = f"""
import importlib, sys
from importlib.machinery import SourceFileLoader

compiled, plain = {{}}, SourceFileLoader.get_code
def once(loader, name):
    if name not in compiled:
        compiled[name] = plain(loader, name)
    return compiled[name]
SourceFileLoader.get_code = once  # every module is imported many times
for name in sys.argv[1:]:
    for loaded in [m for m in sys.modules if m.split(".")[0] in {PACKAGES}]:
        del sys.modules[loaded]
    importlib.import_module(name)
    if name.startswith("usfm"):
        assert not any(m.split(".")[0] == "ray" for m in sys.modules), name + " pulled in ray"
assert not sys.modules["ray"].is_initialized()
"""
    assert PACKAGES[0] == "usfm"  # whose check needs a process without ray
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error::DeprecationWarning:usfm", "-c", program]
    names = [name for package in PACKAGES for name in modules(package)]
    done = subprocess.run([*command, *names], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", [m for p in PACKAGES for m in modules(p)])
def test_all_names_what_exists(module: str) -> None:
    import importlib

    loaded = importlib.import_module(module)
    for name in getattr(loaded, "__all__", []):
        assert hasattr(loaded, name), f"{module}.__all__ names {name}"
