"""The report on a made run: complete, self-contained, tolerant of what is missing or damaged."""

import re
import xml.etree.ElementTree as ET
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_run import HOSTILE, make_run

from data_pipeline.errors import DataError
from data_pipeline.tasks import all_tasks
from launch.report import write_report
from launch.report_blocks import (
    Bullets,
    Cell,
    Page,
    Paragraph,
    Piece,
    Prompt,
    Section,
    Table,
    to_html,
    to_markdown,
)
from launch.report_plots import smooth

VOID = {"meta", "source", "img", "br"}


class Checker(HTMLParser):
    """Balanced tags, and every address that the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset"):
                self.addresses.append(value or "")
            if name == "id":
                self.anchors.add(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("report") / "runs")
    report = write_report(run)
    assert report["notes"] == []
    return run


@pytest.fixture(scope="module")
def html(run_dir: Path) -> str:
    return (run_dir / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def markdown(run_dir: Path) -> str:
    return (run_dir / "report.md").read_text(encoding="utf-8")


def test_the_page_is_self_contained(html: str) -> None:
    checker = checked(html)
    for address in checker.addresses:
        if address.startswith("#"):
            assert address[1:] in checker.anchors
        else:
            assert address.startswith("data:image/svg+xml;base64,")
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert "<script" not in html
    assert len(html) < 8_000_000


def test_pictures_are_whole_and_there_for_both_grounds(html: str) -> None:
    uris = re.findall(r'(srcset|src)="data:image/svg\+xml;base64,([^"]+)"', html)
    kinds = [kind for kind, _ in uris]
    # A panel per task and one for all targets; a forest per family, and scale within it.
    families = {task.family for task in all_tasks().values()}
    least = len(all_tasks()) + 1 + len(families)
    assert kinds.count("src") == kinds.count("srcset") >= least
    for _, data in uris:
        root = ET.fromstring(b64decode(data))
        assert root.tag.endswith("svg")
    light, dark = uris[1][1], uris[0][1]
    assert light != dark


def test_every_task_has_its_row_with_interval_and_verdict(html: str, markdown: str) -> None:
    for task in all_tasks().values():
        line = next(x for x in markdown.splitlines() if x.startswith(f"| {task.code} {task.name} "))
        assert re.search(r"\d\.\d{4} to \d\.\d{4}", line)
        assert f"{task.code} {task.name}" in html
    assert "✗" in html
    assert "✓" in html


def test_it_says_what_the_model_does_not_beat(markdown: str) -> None:
    names = [task.name for task in all_tasks().values()]
    line = next(x for x in markdown.splitlines() if x.startswith("Beats the best baseline"))
    lost = [name for index, name in enumerate(names) if index % 3 == 2]
    assert f"on {len(names) - len(lost)} of {len(names)} tasks" in line
    assert all(name in line for name in lost)
    assert f"Beats the best baseline: **{len(names) - len(lost)} of {len(names)}**" in markdown


def test_seen_and_unseen_tasks_are_told_apart(html: str, markdown: str) -> None:
    assert "Seen and unseen tasks" in html
    tasks = list(all_tasks().values())
    for tier, words in (
        ("T1", "trained on"),
        ("T2a", "unseen question"),
        ("T2b", "unseen corpus"),
        ("T2c", "question and corpus unseen"),
    ):
        own = [index for index, task in enumerate(tasks) if task.tier == tier]
        n, best = len(own), sum(index % 3 != 2 for index in own)
        trivial = sum(index != 4 for index in own)
        counts = f"{n} | {n} of {n} | {trivial} of {n} | {best} of {n} |"
        line = f"| movielens-100k | {tier}: {words} | {counts}"
        assert line in markdown


def test_all_parts_are_there(markdown: str) -> None:
    titles = re.findall(r"^## (.+)$", markdown, flags=re.MULTILINE)
    assert titles == [
        "At a glance",
        "Results",
        "Curves",
        "Training",
        "Prompts and scores",
        "Small models and exports",
        "Data",
        "Time and memory",
        "What next",
        "How this run was made",
    ]
    for text in (
        "| `exports/merged` | proven | transformers 5.23.0 | 1.3e-06 | 2.0e-07 | 32 of 32 | 1 |",
        "the teacher helps: +0.0022",
        "| test | 2,000 | 0.0241 | 0.0263 | 0.0470 | 0.0510 | 0.0022 (0.0004 to 0.0041) |",
        "| `exports/onnx` | FAILED |",
        "| `lora/exports/adapter` | proven |",
        "| train | 5:21 | 2,310 |",
        "students/sasrec",
        "| `lora` | lora | pointwise | 120 |",
        "100,000 events",
        "Most users are new.",
        "commit: `0123abc`",
        "Right: **Yes**. Model: Yes 0.812, No 0.188.",
        "Model: the right item stands at rank 12.5 of the catalog.",
        "Evaluation `results-held_out`: test, held_out phrasings",
    ):
        assert text in markdown


def test_a_curve_has_a_picture_per_task_and_its_numbers(html: str, markdown: str) -> None:
    part = markdown.partition("## Curves")[2].partition("## Training")[0]
    assert "events of the history (shots)" in part
    assert "| phrasing | seen 1 | seen 2 | unseen 1 |" in part
    shots = part.partition("**shots**")[2].splitlines()
    for name in [task.name for task in all_tasks().values()][:2]:
        line, gains = (x for x in shots if x.startswith(f"| {name}, "))
        assert len(re.findall(r"0\.\d{4}( ✓)? \(n 1,50\d", line)) == 4
        assert gains.count("+0.0100 (-0.0100 to +0.0300)") == 3
        assert f'alt="{all_tasks()[name].metric} of {name} by ' in html
    assert "40% have x" in part
    assert "Not measured at 1000: the model has 512 positions." in part


def test_a_run_without_curves_says_how_to_measure_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=30, most_tasks=2)
    for file in (run / "evaluation").glob("curve-*.json"):
        file.unlink()
    write_report(run)
    assert f"No curve was measured: `brewhouse eval {run} --curve shots`" in (
        run / "report.md"
    ).read_text(encoding="utf-8")


def test_text_out_of_data_stays_text(html: str, markdown: str) -> None:
    assert HOSTILE not in html
    assert "&lt;script&gt;alert" in html
    assert HOSTILE in markdown
    # The fence around it is longer than any run of backticks inside.
    assert "````text" in markdown


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        ("metrics.jsonl", "No training metrics"),
        (
            "evaluation/results.json evaluation/results-held_out.json",
            "No evaluation: `brewhouse eval",
        ),
        ("students/sasrec/metrics.json", "No student: `brewhouse distill"),
        ("config.yaml", "No config.yaml"),
        ("../corpus/audit.json", "No audit of the data: `brewhouse data audit CORPUS` writes it"),
        ("evaluation/examples.json timings.json", ""),
    ],
)
def test_a_missing_part_is_said_and_the_rest_reported(
    missing: str, note: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", steps=30, most_tasks=2)
    for name in missing.split():
        (run / name).unlink()
    report = write_report(run)
    assert [n for n in report["notes"] if not n.startswith("No audit")][:1] == (
        [n for n in report["notes"] if n.startswith(note)][:1]
        if note and "audit" not in note
        else []
    )
    assert any(n.startswith(note) for n in report["notes"]) or not note
    text = (run / "report.md").read_text(encoding="utf-8")
    checked((run / "report.html").read_text(encoding="utf-8"))
    assert note in text
    assert "## What next" in text


def test_a_run_that_only_trained_has_a_report(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5, "tasks": {}}\n')
    report = write_report(run)
    assert len(report["notes"]) == 5
    text = (run / "report.md").read_text()
    assert "This run was not evaluated." in text
    assert f"`brewhouse eval {run}`" in text


def test_damaged_files_are_named_and_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=30, most_tasks=2)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 35, "loss": 1.')  # killed while writing
    (run / "evaluation" / "results.json").write_text('{"schema_version": 99}')
    (run / "exports" / "onnx" / "proof.json").write_text("[]")
    (run / "timings.json").write_text("{")
    notes = "\n".join(write_report(run)["notes"])
    assert "1 unreadable line(s) of `metrics.jsonl` were left out" in notes
    assert "schema_version 99" in notes
    assert "`exports/onnx/proof.json` holds no JSON object" in notes
    assert "`timings.json` could not be read" in notes


def test_an_undefined_metric_is_a_dash(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=30, most_tasks=2)
    file = run / "evaluation" / "results.json"
    text = re.sub(r'"(value|low|high)": [\d.]+', r'"\1": null', file.read_text())
    file.write_text(text)
    write_report(run)
    assert "**-**" in (run / "report.md").read_text()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a config nor metrics nor an evaluation"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_same_run_gives_the_same_bytes(run_dir: Path, html: str) -> None:
    write_report(run_dir)
    assert (run_dir / "report.html").read_text(encoding="utf-8") == html


def test_both_forms_say_the_same() -> None:
    blocks = [
        Paragraph("Some `code` and **weight** & <tags>."),
        Bullets(["one", "two"]),
        Table(("a", "b"), [["x|y", Cell("1\n2", "bad")]], "A caption"),
        Prompt("like", [Piece("text\n", "trunk"), Piece("Yes", "label")], "a note"),
    ]
    page = Page("Title", "sub", [Section("One", blocks)])
    assert to_markdown(page) == (
        "# Title\n\nsub\n\n## One\n\nSome `code` and **weight** & <tags>.\n\n- one\n- two\n\n"
        "A caption\n\n| a | b |\n| --- | ---: |\n| x\\|y | 1 2 |\n\n"
        "**like**\n\na note\n\n```text\ntext\nYes\n```\n"
    )
    html = to_html(page)
    checked(html)
    assert "<p>Some <code>code</code> and <strong>weight</strong> &amp; &lt;tags&gt;.</p>" in html
    assert '<td class="bad num">1\n2</td>' in html
    assert '<span class="role-label">Yes</span>' in html


def test_the_moving_average_is_weighted_and_centred() -> None:
    # By hand: half a window is 1, so each value averages itself and its neighbours.
    assert smooth([1.0, 2.0, 6.0], [1.0, 1.0, 2.0]) == pytest.approx([1.5, 15 / 4, 14 / 3])
    assert smooth([3.0], [0.0]) == [3.0]
