"""
Lines of code of the package (without blank lines, comments and docstrings) and assertions of the tests, by commit::

    python benchmarks/lines.py f76e80d HEAD
"""

import ast
import io
import subprocess
import sys
import tokenize

from provenance import REPOSITORY

#: Tokens that are no code.
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
#: Calls that assert something.
CALLS = ("pytest.raises", "pytest.warns", "np.testing.", "th.testing.")


def sources(commit: str, folder: str) -> list[str]:
    """
    :param commit: any name that git knows it by
    :param folder: at the top of the repository
    :return: the texts of its Python files
    """

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout

    files = git("ls-tree", "-r", "--name-only", commit, folder).split()
    return [git("show", f"{commit}:{file}") for file in files if file.endswith(".py")]


def lines_of_code(source: str) -> int:
    """
    :param source: text of a file
    :return: lines with code
    """
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            docstrings.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)


def assertions(source: str) -> int:
    """
    :param source: text of a file
    :return: its assertions
    """
    nodes = list(ast.walk(ast.parse(source)))
    calls = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
    return sum(isinstance(node, ast.Assert) for node in nodes) + sum(call.startswith(CALLS) for call in calls)


def main() -> None:
    print("commit   files  lines  assertions")
    for commit in sys.argv[1:] or ["HEAD"]:
        package, tests = sources(commit, "sb3_ca2e"), sources(commit, "tests")
        print(f"{commit:8} {len(package):5} {sum(map(lines_of_code, package)):6} {sum(map(assertions, tests)):11}")


if __name__ == "__main__":
    main()
