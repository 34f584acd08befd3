"""The product's own logic stands once: no run of six lines of it in two places."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import defaultdict
from pathlib import Path

from mmx.serving.packaging.wheel import PACKAGES

ROOT = Path(__file__).parents[1]
RUN = 6


def logic(path: Path) -> list[tuple[int, str]]:
    """The lines of a module that say how something is done, with their numbers: no docstring, comment, import or lone
    punctuation, no field or parameter with its type, and no argument that is passed on under its own name.
    """
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    left_out: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        documented = isinstance(body, list) and body and isinstance(body[0], ast.Expr)
        if documented and isinstance(body[0].value, ast.Constant):
            left_out |= set(range(body[0].lineno, body[0].end_lineno + 1))
        passed = isinstance(node, ast.keyword) and isinstance(node.value, (ast.Name, ast.Attribute))
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.AnnAssign, ast.arg)) or passed:
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    comments = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = []
    for number, text in enumerate(source.splitlines(), 1):
        line = text.removesuffix(comments.get(number, "")).strip()
        if number not in left_out and any(character.isalnum() for character in line):
            found.append((number, line))
    return found


def repeated(paths: list[Path], root: Path = ROOT) -> list[str]:
    """Each pair of places that share a run, once."""
    places: dict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    for path in paths:
        lines = logic(path)
        for start in range(len(lines) - RUN + 1):
            run = lines[start : start + RUN]
            places[tuple(line for _, line in run)].append((path, run[0][0]))
    pairs = {tuple(path for path, _ in where): where for where in places.values() if len(where) > 1}
    return ["  ~  ".join(f"{path.relative_to(root)}:{number}" for path, number in where) for where in pairs.values()]


def test_no_run_of_six_lines_stands_twice() -> None:
    paths = sorted(path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))
    assert len(paths) > 200
    assert repeated(paths) == []


def test_a_run_that_stands_twice_is_seen(tmp_path: Path) -> None:
    def module(name: str, lines: int) -> Path:
        path = tmp_path / name
        path.write_text("import os\n\n\ndef f(x):\n" + "".join(f"    x += {i}  # {name}\n" for i in range(lines)))
        return path

    paths = [module("a.py", RUN), module("b.py", RUN)]
    assert len(logic(paths[0])) == RUN and len(logic(module("c.py", 2))) == 2
    assert repeated(paths, tmp_path) == ["a.py:5  ~  b.py:5"]
    assert repeated([paths[0], module("d.py", RUN - 2)], tmp_path) == []
