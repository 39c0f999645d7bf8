"""Documentation that is tested: names and files exist, links lead somewhere, commands are understood."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dsp.__main__ import _parser as dsp_parser
from loadtest.__main__ import _parser as loadtest_parser
from models.__main__ import _parser as models_parser

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
CODE_NAME = re.compile(r"`((?:dsp|models|bidder|loadtest)(?:\.\w+)+)(?:\(\))?`")
FILE = re.compile(r"\b(?:tests|deploy|config)/[\w./-]*\w")
COMMAND = re.compile(r"python -m (dsp|models|loadtest)((?: [\w./:\"\[-]+\]?)*)")
PARSERS = {"dsp": dsp_parser(), "models": models_parser(), "loadtest": loadtest_parser()}
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def resolve(dotted: str) -> object:
    """Import the longest module prefix, then follow attributes."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            fields = getattr(found, "__struct_fields__", ())
            found = name if name in fields else getattr(found, name)
        return found
    raise AttributeError(dotted)


def anchors(page: Path) -> set[str]:
    """Return what links can point to in a page: its headings, as GitHub spells them."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_and_links_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    faults = []
    for dotted in set(CODE_NAME.findall(text)):
        try:
            resolve(dotted)
        except AttributeError:
            faults.append(f"no such name: {dotted}")
    faults += [f"no such file: {path}" for path in set(FILE.findall(text)) if not (ROOT / path).exists()]
    for target, anchor in LINK.findall(text):
        if "://" in target:
            continue
        place = page.parent / target if target else page
        if not place.exists():
            faults.append(f"dead link: {target}")
        elif anchor and place.suffix == ".md" and anchor not in anchors(place):
            faults.append(f"dead link: {target}#{anchor}")
    assert not faults


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_understood(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page may leave out what a command needs, and write a value as a word in capitals."""
    for package, rest in COMMAND.findall(page.read_text(encoding="utf-8")):
        try:
            PARSERS[package].parse_args(shlex.split(re.sub(r"[\[\]]", "", rest)))
        except SystemExit:
            told = capsys.readouterr().err
            assert "are required" in told or re.search(r"invalid .*'[A-Z]+'", told), told


def test_architecture_names_functions() -> None:
    """The page that follows a bid request and a click is about the code as it is."""
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for heading in ("Life of a bid request", "Life of a click"):
        section = text.partition(f"## {heading}")[2].partition("\n## ")[0]
        assert len(set(CODE_NAME.findall(section))) >= 8, heading


def test_make_targets_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        name for page in PAGES for name in re.findall(r"`make ([a-z]+)`|^ {4}make ([a-z]+)", page.read_text(), re.M)
    }
    assert {first or second for first, second in named} <= targets


def test_reference_pages_match_the_code() -> None:
    checked = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
