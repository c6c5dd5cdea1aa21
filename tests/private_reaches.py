"""
Counts where tests reach into what the package keeps private: ``python tests/private_reaches.py``.

A reach is an attribute, an import or a string (as for ``monkeypatch.setattr``) of a name that begins with an underscore
and that the package defines, also in scripts that tests run in other processes. Names of Stable-Baselines3, Gymnasium,
PyTorch and Python are theirs, and what a class has of its own parents (``self``, ``cls``, ``super()``) is its own.
"""

import ast
import collections
import pathlib
import re
import sys
import textwrap
from collections.abc import Iterator

TESTS = pathlib.Path(__file__).resolve().parent
#: There are not to be more.
MOST = 150
#: Names of Stable-Baselines3 and of Python's named tuples that the package gives another body or value.
THEIRS = {
    *("_asdict", "_episode_num", "_excluded_save_params", "_fields", "_get_samples", "_last_obs", "_n_updates"),
    *("_on_step", "_predict", "_replace", "_sample_action", "_setup_learn", "_setup_model", "_vec_normalize_env"),
}


def is_private(name: str) -> bool:
    """
    :param name: of whatever
    :return: whether others are not to use it
    """
    return re.fullmatch(r"_[A-Za-z]\w*", name) is not None


def defined_in(package: pathlib.Path) -> set[str]:
    """
    :param package: a folder of modules
    :return: private names that they define
    """
    found = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return {name for name in found if is_private(name)} - THEIRS


def is_own(node: ast.expr) -> bool:
    """
    :param node: what an attribute is asked of
    :return: whether it is the class itself in which that stands
    """
    if isinstance(node, ast.Call):
        node = node.func
        return isinstance(node, ast.Name) and node.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def reaches(code: str) -> Iterator[tuple[int, str]]:
    """
    :param code: of a module
    :return: lines and private names
    """
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and not is_own(node.value):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if "\n" not in node.value:
                yield node.lineno, node.value.rpartition(".")[2]
                continue
            try:
                yield from ((node.lineno + line - 1, name) for line, name in reaches(textwrap.dedent(node.value)))
            except SyntaxError:  # a docstring, say
                continue


def main(tests: pathlib.Path = TESTS) -> int:
    """
    :param tests: a folder of modules, beside the package's
    :return: 1 if there are too many
    """
    ours, found = defined_in(tests.parent / "sb3_ca2e"), collections.Counter[pathlib.Path]()
    for file in sorted(tests.rglob("*.py")):
        for line, name in reaches(file.read_text(encoding="utf-8")):
            if name in ours:
                found[file] += 1
                print(f"{file.relative_to(tests)}:{line}: {name}")
    for file, n in found.most_common():
        print(f"{n:4} {file.relative_to(tests)}")
    print(f"{found.total():4} altogether")
    return found.total() > MOST


if __name__ == "__main__":
    sys.exit(main(*map(pathlib.Path, sys.argv[1:])))
