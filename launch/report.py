"""RUN/report.html and RUN/report.md: one page about a run, out of the files that the run holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.files import atomic_write
from launch.report_blocks import Facts, Page, Section, to_html, to_markdown
from launch.report_curves import curves_section
from launch.report_data import RunFiles, read_run
from launch.report_models import (
    examples_section,
    export_facts,
    models_section,
    next_section,
    origin_section,
    timings_section,
)
from launch.report_results import result_facts, results_section
from launch.report_training import data_section, training_facts, training_section


def write_report(run_dir: Path, *, audit_file: Path | None = None) -> dict[str, Any]:
    """Write both forms of the report.

    Args:
        run_dir: the run's folder.
        audit_file: audit.json of the corpus, where it is not found through the run's stores.

    Returns:
        The paths written (`html`, `markdown`) and `notes` on what was missing.

    Raises:
        DataError: the folder holds nothing of a run.
    """
    files = read_run(run_dir, audit_file)
    if not files.has_anything:
        raise DataError(
            "this folder holds neither a config nor metrics nor an evaluation of a run",
            file=run_dir,
            remedy="name the output_dir of a `brewhouse train`",
        )
    page = build_page(files)
    html_file, markdown_file = run_dir / "report.html", run_dir / "report.md"
    atomic_write(html_file, to_html(page))
    atomic_write(markdown_file, to_markdown(page))
    return {"html": str(html_file), "markdown": str(markdown_file), "notes": list(files.notes)}


def build_page(files: RunFiles) -> Page:
    """The page; its parts come from the other `report_*` modules."""
    facts = [*result_facts(files), *training_facts(files), *export_facts(files)]
    sections = [
        *([Section("At a glance", [Facts(facts)])] if facts else []),
        results_section(files),
        curves_section(files),
        training_section(files),
        examples_section(files),
        models_section(files),
        data_section(files),
        timings_section(files),
        next_section(files),
        origin_section(files),
    ]
    name = files.config.get("run_name") or files.folder.resolve().name
    corpora = {c.name for results in files.results.values() for c in results.corpora}
    corpora |= {files.audit["corpus"]} if files.audit.get("corpus") else set()
    subtitle = f"Brewhouse report on the run in `{files.folder}`"
    if corpora:
        subtitle += f", corpus {', '.join(sorted(corpora))}"
    return Page(f"Run {name}", f"{subtitle}.", sections)
