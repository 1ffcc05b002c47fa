"""The repository's rules that no linter checks; each is also shown to catch a planted breach."""

import ast
import importlib.metadata
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT: dict[str, set[str]] = {
    "launch": {"train", "modeling", "data_pipeline"},
    "train": {"modeling", "data_pipeline"},
    "modeling": set(),
    "data_pipeline": set(),
}
PACKAGES = tuple(MAY_IMPORT)
MAX_FILE_LINES = 700
MAX_FUNCTION_CODE_LINES = 100
GROUP_MODULES = ("torch.distributed", "deepspeed")
GROUP_FOLDER = ("train", "distributed")
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}

Rule = Callable[[Path], Iterator[str]]


def sources(root: Path, packages: Iterable[str] = PACKAGES) -> Iterator[tuple[Path, ast.Module]]:
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def imports_point_one_way(root: Path) -> Iterator[str]:
    for package in PACKAGES:
        for path, tree in sources(root, [package]):
            for line, name in imported(tree):
                top = name.partition(".")[0]
                if top in PACKAGES and top != package and top not in MAY_IMPORT[package]:
                    yield f"{path}:{line} {package} imports {top}"


def config_fields_have_docstrings(root: Path) -> Iterator[str]:
    for path, tree in sources(root):
        for cls in ast.walk(tree):
            if not (isinstance(cls, ast.ClassDef) and cls.name.endswith("Config")):
                continue
            for here, after in zip(cls.body, [*cls.body[1:], None], strict=True):
                documented = (
                    isinstance(after, ast.Expr)
                    and isinstance(after.value, ast.Constant)
                    and isinstance(after.value.value, str)
                )
                if isinstance(here, ast.AnnAssign) and not documented:
                    yield f"{path}:{here.lineno} field of {cls.name} has no docstring"


def only_one_folder_knows_the_process_group(root: Path) -> Iterator[str]:
    for path, tree in sources(root):
        if path.relative_to(root).parts[:2] == GROUP_FOLDER:
            continue
        for line, name in imported(tree):
            if any(name == module or name.startswith(f"{module}.") for module in GROUP_MODULES):
                yield f"{path}:{line} imports {name}"
        # `import torch` alone would reach it too.
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed":
                yield f"{path}:{node.lineno} uses torch.distributed"


def files_are_short(root: Path) -> Iterator[str]:
    for package in (*PACKAGES, "tests"):
        for path in sorted((root / package).rglob("*.py")):
            lines = path.read_text(encoding="utf-8").count("\n")
            if lines > MAX_FILE_LINES:
                yield f"{path} has {lines} lines, more than {MAX_FILE_LINES}"


def code_lines(source: str) -> set[int]:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def functions_are_short(root: Path) -> Iterator[str]:
    for path, tree in sources(root, (*PACKAGES, "tests")):
        code = code_lines(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = set(range(node.lineno, (node.end_lineno or node.lineno) + 1)) & code
                if ast.get_docstring(node, clean=False) is not None:
                    first = node.body[0]
                    body -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
                if len(body) > MAX_FUNCTION_CODE_LINES:
                    yield f"{path}:{node.lineno} {node.name} has {len(body)} code lines"


def only_launch_prints(root: Path) -> Iterator[str]:
    for path, tree in sources(root, [package for package in PACKAGES if package != "launch"]):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            if ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write"):
                yield f"{path}:{node.lineno} prints; use logging"


def nothing_unsafe_is_loaded(root: Path) -> Iterator[str]:
    """Artefacts are safetensors, Arrow and JSON: nothing that runs code when it is read."""
    for path, tree in sources(root):
        for line, name in imported(tree):
            if name.partition(".")[0] in ("pickle", "cloudpickle", "dill", "joblib"):
                yield f"{path}:{line} imports {name}"
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
                setting = (node.arg, node.value.value)
                if setting in (
                    ("trust_remote_code", True),
                    ("weights_only", False),
                    ("allow_pickle", True),
                    ("shell", True),
                ):
                    yield f"{path}:{node.value.lineno} passes {node.arg}={node.value.value}"


def packages_are_typed_and_documented(root: Path) -> Iterator[str]:
    for package in PACKAGES:
        for name in ("__init__.py", "py.typed", "README.md"):
            if not (root / package / name).is_file():
                yield f"{package}/{name} is missing"


# Rule, and a file that breaks it: what the rule must find.
RULES: list[tuple[Rule, str, str]] = [
    (imports_point_one_way, "modeling/a.py", "def f():\n    from train.config import X\n"),
    (imports_point_one_way, "data_pipeline/a.py", "import modeling.scoring\n"),
    (imports_point_one_way, "train/a.py", "from launch import cli\n"),
    (
        config_fields_have_docstrings,
        "train/a.py",
        'class AConfig:\n    """A."""\n\n    a: int = 1\n    """Documented."""\n    b: int = 2\n',
    ),
    (only_one_folder_knows_the_process_group, "train/a.py", "import torch.distributed as d\n"),
    (only_one_folder_knows_the_process_group, "train/a.py", "from torch import distributed\n"),
    (only_one_folder_knows_the_process_group, "modeling/a.py", "import deepspeed\n"),
    (
        only_one_folder_knows_the_process_group,
        "launch/a.py",
        "import torch\nr = torch.distributed.get_rank()\n",
    ),
    (files_are_short, "launch/a.py", "x = 1\n" * (MAX_FILE_LINES + 1)),
    (
        functions_are_short,
        "tests/a.py",
        "def f():\n" + "    x = 1\n" * (MAX_FUNCTION_CODE_LINES + 1),
    ),
    (only_launch_prints, "train/a.py", "print('hello')\n"),
    (only_launch_prints, "modeling/a.py", "import sys\nsys.stdout.write('hello')\n"),
    (nothing_unsafe_is_loaded, "train/a.py", "import pickle\n"),
    (nothing_unsafe_is_loaded, "train/a.py", "load('x', trust_remote_code=True)\n"),
    (nothing_unsafe_is_loaded, "train/a.py", "np.load('x', allow_pickle=True)\n"),
    (packages_are_typed_and_documented, "train/a.py", ""),
]
UNIQUE_RULES = list(dict.fromkeys(rule for rule, _, _ in RULES))


@pytest.mark.parametrize("rule", UNIQUE_RULES, ids=lambda rule: rule.__name__)
def test_the_repository_keeps_the_rule(rule: Rule) -> None:
    assert list(rule(ROOT)) == []


@pytest.mark.parametrize(
    ("rule", "path", "breach"), RULES, ids=[f"{rule.__name__}-{path}" for rule, path, _ in RULES]
)
def test_the_rule_finds_a_planted_breach(
    rule: Rule, path: str, breach: str, tmp_path: Path
) -> None:
    for package in (*PACKAGES, "tests"):
        (tmp_path / package).mkdir()
        for name in ("__init__.py", "py.typed", "README.md"):
            (tmp_path / package / name).touch()
    assert list(rule(tmp_path)) == []
    if breach:
        (tmp_path / path).write_text(breach, encoding="utf-8")
    else:
        (tmp_path / Path(path).parent / "README.md").unlink()
    assert len(list(rule(tmp_path))) >= 1


def owners(package: str, distributions: dict[str, list[str]]) -> set[str]:
    return set(distributions.get(package, []))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_ships_our_names(package: str) -> None:
    found = owners(package, dict(importlib.metadata.packages_distributions()))
    assert found <= {"brewhouse"}, f"{package} also comes from {found - {'brewhouse'}}"


def test_another_owner_of_our_names_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A distribution on the path that ships `train.py` is reported under that name."""
    info = tmp_path / "trains-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trains\nVersion: 1.0\n")
    (info / "RECORD").write_text("train.py,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "trains" in owners("train", dict(importlib.metadata.packages_distributions()))


def test_tests_mirror_the_packages() -> None:
    allowed = {*PACKAGES, "integration", "distributed", "golden", "support"}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} <= allowed


def test_test_files_have_different_names() -> None:
    """In importlib mode, equal names in two folders would still confuse a reader of a report."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_constraints_cover_every_dependency() -> None:
    """The constraints pin each direct dependency at a version its range in pyproject allows."""
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for name, extra in project["optional-dependencies"].items():
        # The package that carries a model's weights has nothing to be compatible with.
        wanted += [line for line in extra if name != "smollm2" or not line.startswith("llm-")]
    pins = {
        canonicalize_name(line.partition("==")[0]): line.partition("==")[2].strip()
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if re.match(r"[A-Za-z]", line)
    }
    for line in wanted:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name == "brewhouse":
            continue
        assert name in pins, f"{name} has no tested version in constraints.txt"
        assert requirement.specifier.contains(pins[name]), f"{line} excludes {pins[name]}"
