"""Public names: all exported, documented, and told to live where a user finds them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types

import pytest

import sockscope

# The only public submodules; everything else has an underscore.
SUBMODULES = ["sockscope.buffered", "sockscope.testing"]


def public_names(module: types.ModuleType) -> set[str]:
    """What somebody sees who looks into *module*: no modules, and no ``from __future__``."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and name not in ("annotations", "pytest_plugins")
    }


def exports() -> list[tuple[str, str]]:
    return [
        (module, name)
        for module in ["sockscope", *SUBMODULES]
        if importlib.util.find_spec(module)
        for name in importlib.import_module(module).__all__
    ]


@pytest.mark.parametrize("module_name", ["sockscope", *SUBMODULES])
def test_all_is_complete(module_name):
    module = importlib.import_module(module_name)
    assert set(module.__all__) == public_names(module)
    assert len(module.__all__) == len(set(module.__all__))


@pytest.mark.parametrize(("module_name", "name"), exports())
def test_a_public_name_is_documented_and_at_home(module_name, name):
    value = getattr(importlib.import_module(module_name), name)
    if isinstance(value, type) or inspect.isroutine(value):
        assert value.__module__ == module_name
        assert value.__qualname__ == name
        assert inspect.getdoc(value)
        assert value.__doc__, "the docstring is inherited"


@pytest.mark.parametrize(("module_name", "name"), exports())
def test_public_members_are_documented(module_name, name):
    value = getattr(importlib.import_module(module_name), name)
    if not isinstance(value, type):
        return
    undocumented = [
        member
        for member, definition in vars(value).items()
        if not member.startswith("_")
        and (inspect.isroutine(definition) or isinstance(definition, property))
        and not inspect.getdoc(getattr(value, member))
    ]
    assert undocumented == []


def test_other_modules_are_private():
    top = {module.name for module in pkgutil.iter_modules(sockscope.__path__)}
    assert {name for name in top if not name.startswith("_")} <= {"buffered", "testing"}
    inside = {
        module.name
        for module in pkgutil.iter_modules(importlib.import_module("sockscope.testing").__path__)
    }
    assert all(name.startswith("_") for name in inside)
