"""The house style, held as a test: small modules, short functions, docstrings, nothing left over."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("dsp", "models", "bidder", "loadtest")
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
#: The hot path has a bound of its own.
AUCTION_LINES_MAX = 200
TOP_LEVEL = {
    ".ci", ".dockerignore", ".gitignore", "Dockerfile", "Makefile", "README.md", "bidder", "compose.yaml", "config",
    "deploy", "docs", "dsp", "loadtest", "models", "pyproject.toml", "requirements.lock", "tests",
}  # fmt: skip
LEFT_OVER = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b")
ONE_MACHINE = re.compile(r"(?<![\w.])/(root|home|work|Users)/[\w.-]+")


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout, so there is no list of tracked files")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_module_is_tidy(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    faults = []
    if len(source.splitlines()) > MODULE_LINES_MAX:
        faults.append(f"{len(source.splitlines())} lines: does it do two jobs?")
    if source.strip() and "migrations/versions" not in str(path) and ast.get_docstring(tree) is None:
        faults.append("no module docstring")
    faults += [
        f"{node.name} has {length} lines"
        for node in functions(tree)
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    faults += [
        f"line {handler.lineno} swallows everything"
        for handler in ast.walk(tree)
        if isinstance(handler, ast.ExceptHandler)
        and (handler.type is None or ast.unparse(handler.type) in ("Exception", "BaseException"))
        and all(isinstance(step, ast.Pass) for step in handler.body)
    ]
    faults += [
        f"line {node.lineno} imports what {node.module} keeps to itself"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] not in PACKAGES
        if any(_private(name) for name in (*node.module.split("."), *(alias.name for alias in node.names)))
    ]
    faults += [f"left over: {match.group()}" for match in LEFT_OVER.finditer(source)]
    assert not faults


def test_auction_reads_on_one_page() -> None:
    lines = (ROOT / "bidder" / "auction.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= AUCTION_LINES_MAX


def test_nothing_is_left_at_the_top() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} == TOP_LEVEL


def test_no_file_names_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked()
        if path.is_file() and path.suffix not in (".png", ".gz", ".lock") and path != Path(__file__)
        for match in ONE_MACHINE.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found


def test_public_docstrings() -> None:
    """Every public module-level function and class says what it is."""
    missing = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in modules()
        if "migrations" not in path.parts
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
    ]
    assert not missing
