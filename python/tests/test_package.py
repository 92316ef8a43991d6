"""The public surface."""

from __future__ import annotations

import ast
import inspect
import tomllib
from pathlib import Path
from typing import Any

import pytest

import snakehouse

PACKAGE = Path(snakehouse.__file__).parent


def test_all_is_sorted_and_complete() -> None:
    public = {name for name in vars(snakehouse) if not name.startswith("_")}
    # Submodules are private, but for programs and what is imported by name.
    modules = {name for name in public if inspect.ismodule(getattr(snakehouse, name))}
    assert sorted(public - modules | {"__version__"}) == snakehouse.__all__
    assert modules <= {"client", "conformance", "testing", "worker"}


def test_modules_are_private_and_flat() -> None:
    names = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py"}
    assert {name for name in names if not name.startswith("_")} == {
        "client.py",
        "conformance.py",
        "testing.py",
        "worker.py",
    }


def test_only_the_standard_library_is_needed() -> None:
    import sys

    allowed = {*sys.stdlib_module_names, "snakehouse"}
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] in allowed, (path, name)


def test_the_version_is_that_of_the_release() -> None:
    cargo = tomllib.loads((PACKAGE.parents[1] / "Cargo.toml").read_text())
    assert snakehouse.__version__ == cargo["workspace"]["package"]["version"]


def test_the_licence_goes_with_the_package() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    (name,) = project["license-files"]
    text = (PACKAGE.parent / name).read_text()
    assert text == (PACKAGE.parents[1] / "LICENSE").read_text()


def test_a_tool_stays_a_function() -> None:
    @snakehouse.tool
    def double(x: int) -> int:
        return 2 * x

    assert double(4) == 8
    assert snakehouse.deadline() is snakehouse.remaining() is snakehouse.session() is None


class CallableThing:
    def __call__(self) -> None: ...


@pytest.mark.parametrize("thing", [int, CallableThing(), print, (x for x in ())])
def test_only_plain_functions_are_tools(thing: Any) -> None:
    with pytest.raises(TypeError, match="plain function"):
        snakehouse.tool(thing)


def test_items_of_the_host_are_for_a_running_call() -> None:
    with pytest.raises(RuntimeError, match="running call"):
        snakehouse.incoming()


def test_cancelled_is_no_exception() -> None:
    assert not issubclass(snakehouse.Cancelled, Exception)
    assert issubclass(snakehouse.ToolError, snakehouse.SnakehouseError)
    assert issubclass(snakehouse.UnsupportedValue, TypeError)
    assert issubclass(snakehouse.MalformedValue, ValueError)
