"""
Handles: numbers and file names that stand for something outside Python, such as the number of a PyBullet server.

A copy has the same handle as the original. If its ``__del__`` releases what the handle stands for, the end of the copy
takes it from the original.
"""

import ast
import builtins
import functools
import inspect
import os
import pathlib
import shutil
import textwrap
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from sb3_ca2e.envs.copies.inspection import CONTAINERS, PLAIN, attributes_of, keys_of, leaves_of

#: Modules whose functions release nothing that a number stands for.
_HARMLESS = {"builtins", "logging", "warnings", "time", "math", "sys", "gc", "numpy", "torch", "pygame", "gymnasium"}
#: Functions that release what a file name stands for.
_REMOVE_FILES = (shutil.rmtree, os.remove, os.unlink, os.rmdir, os.removedirs)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)

#: Types that lead to the whole interpreter, or to nothing.
_NOT_SEARCHED = (*PLAIN, *_FUNCTIONS)

#: Names of the attributes that a local variable, or an expression, comes from.
Names = frozenset[str]


class ReleasedError(ValueError):
    """
    The end of a copy of an object would release what belongs to the original.

    :param owner: the object
    :param handle: name of its attribute
    """

    def __init__(self, owner: Any, handle: str):
        self.owner, self.kind = owner, type(owner).__name__
        super().__init__(f"its __del__ releases what {self.kind}.{handle} stands for, which a copy would share")


def released_handle(value: Any) -> str | None:
    """
    Find a handle that ``__del__`` passes to a function outside the object.

    :param value: any object
    :return: name of the attribute that holds it, or None
    """
    finalizer = getattr(type(value), "__del__", None)
    if not isinstance(finalizer, types.FunctionType) or _package(finalizer) in _HARMLESS:
        return None
    for name, function in _passed_outside(value, finalizer, {}, set()):
        held = attributes_of(value).get(name)
        kinds = (str, bytes, pathlib.PurePath) if function in _REMOVE_FILES else (int, np.integer)
        if any(isinstance(each, kinds) and _is_open(each) for each in leaves_of(held, _is_container)):
            return name
    return None


def name_of(part: Any, env: Any) -> str:
    """
    Find where an object is in an environment.

    :param part: the object
    :param env: an environment
    :return: the shortest path to it as Python code, without wrappers
    """
    seen, waiting = {id(env)}, deque([("", env)])
    while waiting:
        name, owner = waiting.popleft()
        if owner is part:
            return name.removeprefix(".")
        held = [(f"{name}[{key!r}]", owner[key]) for key in keys_of(owner)]
        held += [(name if step == "env" else f"{name}.{step}", each) for step, each in attributes_of(owner).items()]
        for its_name, each in held:
            if id(each) not in seen and not isinstance(each, _NOT_SEARCHED):
                seen.add(id(each))
                waiting.append((its_name, each))
    return ""


def _is_container(value: Any) -> bool:
    return type(value) in CONTAINERS


def _is_open(handle: Any) -> bool:
    """Whether a handle stands for something: negative numbers, empty names and flags don't."""
    if isinstance(handle, int | np.integer):
        return not isinstance(handle, bool) and int(handle) >= 0
    return bool(handle)


def _passed_outside(
    value: Any, function: types.FunctionType, variables: dict[str, Names], seen: set[Any]
) -> Iterator[tuple[str, Any]]:
    """Iterate over attributes that a method, and those that it calls, pass to functions outside the object."""
    tree = _tree(function)
    if tree is None or not tree.args.args or function in seen:
        return
    seen.add(function)
    me = tree.args.args[0].arg
    known = {**variables, **_variables(tree, me, variables)}
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        given = {each.arg or "": _names(each.value, me, known) for each in call.keywords}
        passed = [_names(each, me, known) for each in call.args]
        called = _called(value, function, call.func, me, known)
        if isinstance(called, list):
            for method in called:
                parameters = inspect.signature(method).parameters
                by_place = dict(zip(list(parameters)[1:], passed, strict=False))
                named = {name: names for name, names in given.items() if name in parameters}
                yield from _passed_outside(value, method, {**by_place, **named}, seen)
        elif called is not _OWN:
            for names in (*passed, *given.values()):
                yield from ((name, called) for name in sorted(names))


@functools.lru_cache(maxsize=256)
def _tree(function: types.FunctionType) -> ast.FunctionDef | None:
    """Parse a function; None if there is no source."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, ValueError, SyntaxError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) else None


def _variables(tree: ast.FunctionDef, me: str, given: dict[str, Names]) -> dict[str, Names]:
    """Return local variables that hold attributes, or items of attributes."""
    found = dict(given)
    for node in ast.walk(tree):
        targets, source = [], None
        if isinstance(node, ast.Assign):
            targets, source = node.targets, node.value
        elif isinstance(node, ast.For | ast.comprehension):
            targets, source = [node.target], node.iter
        elif isinstance(node, ast.NamedExpr):
            targets, source = [node.target], node.value
        for target in targets:
            for each in ast.walk(target):
                if isinstance(each, ast.Name) and source is not None and (names := _names(source, me, found)):
                    found[each.id] = names
    return found


def _names(node: ast.AST, me: str, variables: dict[str, Names]) -> Names:
    """Return the attributes whose value, or an item of it, an expression is."""
    match node:
        case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner == me:
            return frozenset({name})
        case ast.Name(id=name):
            return variables.get(name, frozenset())
        case ast.Subscript(value=inner) | ast.Starred(value=inner):
            return _names(inner, me, variables)
        case ast.Call(func=ast.Attribute(value=inner, attr="values" | "items" | "pop" | "copy")):
            return _names(inner, me, variables)
        case ast.Call(func=ast.Name(id="list" | "tuple" | "set" | "sorted" | "int" | "str"), args=[inner]):
            return _names(inner, me, variables)
    return frozenset()


class _Own:
    """Stands for a function that changes nothing outside the object."""


_OWN = _Own()


def _called(value: Any, function: types.FunctionType, node: ast.AST, me: str, variables: dict[str, Names]) -> Any:
    """
    Find out what a call calls: methods of the object itself, ``_OWN``, or a function outside, None if it is unknown.
    """
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.insert(0, node.attr)
        node = node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super" and len(path) == 1:
        methods = [vars(kind).get(path[0]) for kind in type(value).__mro__]
        return [each for each in methods if isinstance(each, types.FunctionType)]
    if not isinstance(node, ast.Name):
        return None
    if node.id == me:
        return _called_of_itself(value, path)
    if len(attributes := variables.get(node.id, ())) == 1:
        return _called_of_itself(value, [*attributes, *path])
    names = {**vars(builtins), **function.__globals__, **inspect.getclosurevars(function).nonlocals}
    if node.id not in names:
        return None  # a local variable, or imported in the function
    return _resolved(names[node.id], path)


def _called_of_itself(value: Any, path: list[str]) -> Any:
    if not path:
        return _OWN
    held = attributes_of(value)
    if path[0] in held:  # a copy has its own, unless it is a module, a class or a function
        return _resolved(held[path[0]], path[1:]) if isinstance(held[path[0]], _FUNCTIONS) else _OWN
    of_class = inspect.getattr_static(type(value), path[0], None)
    of_class = getattr(of_class, "__func__", of_class)
    if isinstance(of_class, types.FunctionType) and len(path) == 1:
        return [of_class]
    return _OWN if of_class is None or isinstance(of_class, property) else _resolved(of_class, path[1:])


def _resolved(found: Any, path: list[str]) -> Any:
    """Follow attributes of a module or class to a function."""
    if _package(found) in _HARMLESS:
        return _OWN
    for name in path:
        found = inspect.getattr_static(found, name, None)
    return _OWN if found is not None and _package(found) in _HARMLESS else found


def _package(found: Any) -> str:
    """Return the package of a function, module or class, or of an object's class."""
    name = found.__name__ if isinstance(found, types.ModuleType) else None
    if name is None:
        owner: Any = found if isinstance(found, _FUNCTIONS) else type(found)
        name = getattr(owner, "__module__", None)
    return str(name).partition(".")[0]
