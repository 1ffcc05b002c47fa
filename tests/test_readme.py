"""What the documents tell people to type exists: commands with their options, files and links."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from launch.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("*/README.md"),
        *(ROOT / "launch" / "guides").glob("*.md"),
        *(ROOT / "launch" / "recipes").glob("*.yaml"),
    ]
    if "tests" not in path.relative_to(ROOT).parts
)
# `--name` and `EXAMPLE` stand for something; a line may go on after a backslash.
COMMAND = re.compile(r"(?:^|[\s`(\"#])brewhouse ((?:[^\n`#\"\\]|\\\n)+)")
NO_COMMAND = re.compile(r"^(\.\.\.|[A-Z][a-z]|is |will |\{|and |does |installs |==)")


def commands_of(text: str) -> list[str]:
    """Command lines in a document, without prose about the project that starts with its name."""
    found = []
    for match in COMMAND.finditer(text):
        line = re.sub(r"\\\n\s*", " ", match[1]).split(" # ")[0]
        line = re.split(r"[;|&<>─]|\.\s|\.$|,\s|\)|\s{2,}", line)[0].strip()
        if line and not NO_COMMAND.match(line):
            found.append(line)
    return found


def parse(words: list[str]) -> None:
    """Parse as the command line does, without running anything; raises a usage error."""
    command: Any = get_command(app)
    while True:
        context = command.make_context(command.name, list(words))
        if not hasattr(command, "resolve_command"):
            return
        rest = [*getattr(context, "_protected_args", []), *context.args]
        _, command, words = command.resolve_command(context, rest)


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, (*path, name))
    if path and not hasattr(command, "commands"):
        yield " ".join(path), command


def problem(line: str) -> str:
    """Why the line would be refused; empty when it would not, or when it only names a command."""
    if line in {name for name, _ in leaves(get_command(app))}:
        return ""
    try:
        parse(shlex.split(line.replace("[", "").replace("]", "")))
    except SystemExit as error:
        return "" if error.code == 0 else f"exit {error.code}"
    except Exception as error:
        name = type(error).__name__
        return "" if name in ("Exit", "NoArgsIsHelpError") else f"{name}: {error}"
    return ""


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_the_document_parses(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = commands_of(path.read_text(encoding="utf-8"))
    problems = {line: text for line in lines if (text := problem(line))}
    assert problems == {}


def test_the_readme_shows_the_whole_flow() -> None:
    lines = commands_of((ROOT / "README.md").read_text(encoding="utf-8"))
    verbs = {" ".join(line.split()[:2]) for line in lines}
    assert {"data import", "data audit", "data build", "tasks show"} <= verbs
    assert {"train", "eval", "distill", "export", "report"} <= {line.split()[0] for line in lines}


@pytest.mark.parametrize(
    "line",
    [
        "dta fetch movielens-100k",
        "data fetch --from here",
        "data build corpus --out store",
        "train run.yaml --num_procs 2",
        "export --to merged",
        "eval run --phrasing unheard",
    ],
)
def test_a_wrong_command_would_be_noticed(line: str) -> None:
    assert problem(line) != ""
    assert commands_of(f"Type `brewhouse {line}` now.") == [line]


def test_prose_is_no_command() -> None:
    text = "Brewhouse trains.\n    brewhouse data audit X  # read it\n`brewhouse eval RUN`, then"
    assert commands_of(text) == ["data audit X", "eval RUN"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_links_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (path.parent / link).exists()]
    # A path in the text is from the root, or from the document's own folder.
    for name in re.findall(r"\b(?:launch|train|modeling|data_pipeline|tests)/[\w./-]*\w", text):
        stands_for_something = (
            re.search(r"[A-Z]{2}", Path(name).stem) and Path(name).stem != "README"
        )
        if stands_for_something or (name.startswith("train/") and "." not in name):
            continue  # RECIPE.yaml; train/loss is also the name of a metric
        if not any((base / name).exists() for base in (ROOT, path.parent)):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("package", ["data_pipeline", "modeling", "train", "launch"])
def test_the_map_of_a_package_is_whole(package: str) -> None:
    text = (ROOT / package / "README.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`([\w/]+\.py)`", cell)}
    there = {path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
    assert there - named == set()
    assert {name for name in named if not any((ROOT / package).rglob(name))} == set()


@pytest.mark.parametrize(("name", "command"), list(leaves(get_command(app))))
def test_every_command_has_help_and_examples_that_parse(name: str, command: Any) -> None:
    assert command.help
    examples = commands_of(command.epilog or "")
    assert examples, f"{name} has no example"
    assert {line: text for line in examples if (text := problem(line))} == {}
    noun = name.split()[0]
    assert all(line.startswith(noun) or noun == "data" for line in examples)
