"""How readable the code is, in numbers, each beside what we aim at.

    python scripts/metrics.py [PACKAGE] [--tests FOLDER]

The targets and why they are what they are: docs/architecture.md. Nothing fails here; the numbers are for people. The
last line is one JSON object.
"""

import argparse
import ast
import io
import json
import re
import statistics
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
BRANCH = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.comprehension, ast.match_case)
FILLER = re.compile(r"^(See `.*`\.?|Always\.?)$")
"""Docstrings that only point elsewhere."""


@dataclass(frozen=True)
class Source:
    """One file of the package, read once.

    Attributes:
        path: where it is.
        text: what it says.
        tree: its syntax.
    """

    path: Path
    text: str
    tree: ast.Module

    @classmethod
    def read(cls, path: Path) -> "Source":
        """Read and parse a file."""
        text = path.read_text(encoding="utf-8")
        return cls(path, text, ast.parse(text))

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Functions and methods, nested ones too."""
        return (node for node in ast.walk(self.tree) if isinstance(node, FUNCTION))


def body_lines(source: Source, function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of code in the body: no docstring, no blank lines, no lines that hold a comment only."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    lines = source.text.splitlines()[body[0].lineno - 1 : function.end_lineno]
    return sum(1 for line in lines if line.strip() and not line.strip().startswith("#"))


def complexity(function: ast.AST) -> int:
    """McCabe's number, counted as the linter counts it: one more than there are branches."""
    return 1 + sum(isinstance(node, BRANCH) for node in ast.walk(function))


def used_once(sources: list[Source]) -> int:
    """Private functions whose name stands in the package exactly twice: at its definition and at its only use."""
    words = Counter(word for source in sources for word in re.findall(r"\b_[a-z]\w*\b", source.text))
    return sum(
        1
        for source in sources
        for function in source.functions()
        if function.name.startswith("_") and not function.name.startswith("__") and words[function.name] == 2
    )


def comments(text: str) -> int:
    """Comment tokens."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(1 for token in tokens if token.type == tokenize.COMMENT)


def public_names(tree: ast.Module) -> Iterator[ast.AST]:
    """The module, its public functions and classes, and their public methods."""
    yield tree
    for node in tree.body:
        if not isinstance(node, (*FUNCTION, ast.ClassDef)) or node.name.startswith("_"):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            yield from (inner for inner in node.body if isinstance(inner, FUNCTION) and not inner.name.startswith("_"))


def measure(package: Path, tests: Path) -> dict[str, float]:
    """All figures."""
    sources = [Source.read(path) for path in sorted(package.rglob("*.py"))]
    functions = [(source, function) for source in sources for function in source.functions()]
    bodies = [body_lines(source, function) for source, function in functions]
    lines = [line for source in sources for line in source.text.splitlines() if line.strip()]
    code = sum(1 for line in lines if not line.strip().startswith("#"))
    named = [node for source in sources for node in public_names(source.tree)]
    docs = [ast.get_docstring(node) for node in named]  # type: ignore[arg-type]
    beyond_cli = [source for source in sources if "cli" not in source.path.relative_to(package).parts]
    whole = sum(source.text.count("\n") for source in sources)
    return {
        "lines": whole,
        "functions": len(functions),
        "median_body_lines": statistics.median(bodies),
        "bodies_over_60": sum(body > 60 for body in bodies),
        "over_mccabe_10": sum(complexity(function) > 10 for _, function in functions),
        "private_used_once_percent": round(100 * used_once(sources) / len(functions), 1),
        "comments_per_100": round(100 * sum(comments(source.text) for source in sources) / code, 2),
        "files_over_300": sum(source.text.count("\n") > 300 for source in sources),
        "public_without_docstring": sum(doc is None for doc in docs),
        "filler_docstrings": sum(bool(doc and FILLER.match(doc)) for doc in docs),
        "flags_outside_cli": sum(len(re.findall(r"(?<![\w-])--[a-z]", source.text)) for source in beyond_cli),
        "test_lines_per_line": round(sum(p.read_text().count("\n") for p in tests.rglob("*.py")) / whole, 2),
    }


AIMS = {
    "lines": "20,000 for what there was; new rooms come on top",
    "median_body_lines": "6 to 10",
    "bodies_over_60": "0",
    "over_mccabe_10": "0",
    "private_used_once_percent": "under 20",
    "comments_per_100": "4 or more",
    "files_over_300": "0",
    "public_without_docstring": "0",
    "filler_docstrings": "0",
    "flags_outside_cli": "0",
    "test_lines_per_line": "0.7 or more",
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", nargs="?", type=Path, default=Path("verse3d"))
    parser.add_argument("--tests", type=Path, default=Path("tests"))
    options = parser.parse_args()
    figures = measure(options.package, options.tests)
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):28} {value:>9}   {AIMS.get(name, '')}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
