"""The report's parts on data and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launch.report_blocks import Block, Cell, Fact, Paragraph, Pictures, Section, Table, Tone
from launch.report_data import Json, RunFiles
from launch.report_plots import Curve, loss_picture, smooth
from train.progress import duration

HISTORY = "history"
LEVEL_TONES: Mapping[str, Tone] = {"ok": "good", "warning": "quiet", "error": "bad"}


def data_section(files: RunFiles) -> Section:
    """What the audit found in the corpus."""
    section = Section("Data")
    audit = files.audit
    if not audit:
        section.blocks.append(
            Paragraph(
                "There is no audit of this run's corpus: `brewhouse data audit CORPUS`.", "quiet"
            )
        )
        return section
    counts = ", ".join(f"{n:,} {what}" for what, n in audit.get("counts", {}).items())
    section.blocks.append(
        Paragraph(
            f"Corpus **{audit.get('corpus', '?')}**, fingerprint "
            f"`{audit.get('fingerprint', '?')}`: {counts}; "
            f"{audit.get('first_event', '?')} to {audit.get('last_event', '?')}, "
            f"{audit.get('days', 0):,.0f} days; {100 * audit.get('density', 0):.1f}% of all "
            "user-item pairs have an event."
        )
    )
    section.blocks.extend(_distributions(audit))
    checks = sorted(
        audit.get("checks", ()),
        key=lambda check: ("error", "warning", "ok").index(check.get("level", "ok")),
    )
    rows = [
        [Cell(c["level"], LEVEL_TONES.get(c["level"], "")), c["name"], c["message"]] for c in checks
    ]
    if rows:
        section.blocks.append(Table(("level", "check", "finding"), rows, "Checks", numbers_from=99))
    split = audit.get("split")
    if split:
        shares = ", ".join(f"{phase} {n:,}" for phase, n in split.get("counts", {}).items())
        line = f"Split {split.get('method')}: {shares}; hash `{split.get('hash')}`."
        section.blocks.append(Paragraph(line))
    return section


def _distributions(audit: Json) -> list[Block]:
    blocks: list[Block] = []
    per = {
        name: audit[key]
        for name, key in (("user", "events_per_user"), ("item", "events_per_item"))
        if audit.get(key)
    }
    if per:
        columns = list(next(iter(per.values())))
        rows = [[name, *(f"{q.get(c, 0):,.4g}" for c in columns)] for name, q in per.items()]
        blocks.append(Table(("events per", *columns), rows))
    values = audit.get("values") or {}
    if 0 < len(values) <= 12:
        total = sum(values.values())
        shares = [f"{n:,} ({100 * n / total:.0f}%)" for n in values.values()]
        blocks.append(Table(("value", *values), [["events", *shares]]))
    return blocks


def training_section(files: RunFiles) -> Section:
    """How training went: a line of figures, the loss of all targets and of each task."""
    section = Section("Training")
    lines = [line for line in files.steps if line.get("loss") is not None]
    if not lines:
        section.blocks.append(Paragraph("There are no training metrics.", tone="quiet"))
        return section
    section.blocks.append(_summary(files.config, lines))
    section.blocks.append(_rates(lines))
    curves = _curves(files.steps)
    caption = (
        "Pale: each logged line; strong: its moving average; dots: validation targets. "
        "Loss in nats per target."
    )
    section.blocks.append(Pictures([loss_picture(curve) for curve in curves], caption))
    section.blocks.append(_loss_table(curves))
    if files.tuned:
        section.blocks.append(_tuned_table(files.tuned))
    return section


def training_facts(files: RunFiles) -> list[Fact]:
    """What was trained, for the top of the page."""
    lines = [line for line in files.steps if line.get("loss") is not None]
    if not lines:
        return []
    targets = sum(line.get("targets", 0) for line in lines)
    seconds = sum(line.get("seconds", 0.0) for line in lines)
    return [
        Fact(
            "Trained on",
            f"{targets:,}",
            f"targets in {lines[-1]['step']:,} steps, {duration(seconds)} of stepping",
        )
    ]


def _tuned_table(tuned: Mapping[str, tuple[Json, Sequence[Json]]]) -> Table:
    """Runs on top of this one: what was tuned, and its loss on validation targets."""
    rows = []
    for name, (config, lines) in tuned.items():
        mixture = config.get("mixture") or {}
        losses = [line["loss"] for line in lines if line.get("loss") is not None]
        checked = [line["evaluation"]["loss"] for line in lines if "evaluation" in line]
        rows.append(
            [
                f"`{name}`",
                str(config.get("finetuning_type", "?")),
                ", ".join(mixture.get("tasks") or ()) or "all",
                f"{lines[-1]['step']:,}" if lines else "0",
                *(
                    f"{pair[0]:.4f} to {pair[-1]:.4f}" if pair else "-"
                    for pair in (losses, checked)
                ),
            ]
        )
    columns = ("run on top", "tuning", "tasks", "steps", "training loss", "validation loss")
    return Table(columns, rows, "Loss at the first and at the last logged step.", numbers_from=3)


def _summary(config: Json, lines: list[Json]) -> Paragraph:
    model: Any = config.get("model_name_or_path") or config.get("model")
    if isinstance(model, dict):
        shape = f"{model.get('num_hidden_layers')} layers of width {model.get('hidden_size')}"
        model = f"a {model.get('architecture', 'decoder')} from scratch, {shape}"
    else:
        model = f"`{model}`" if model else "an unnamed model"
    trees = config.get("global_batch_size") or config.get("per_device_train_batch_size", "?")
    how = (
        f"{config.get('finetuning_type', 'full')} tuning, "
        f"DeepSpeed `{config.get('deepspeed', '?')}`, {trees} trees a step, "
        f"{config.get('lr_scheduler_type', '?')} from {config.get('learning_rate', '?')}"
    )
    first, last = lines[0], lines[-1]
    return Paragraph(
        f"Backbone: {model}; {how}. Loss {first['loss']:.3f} at step {first['step']:,}, "
        f"{last['loss']:.3f} at step {last['step']:,}."
    )


def _rates(lines: list[Json]) -> Table:
    seconds = sum(line.get("seconds", 0.0) for line in lines) or 1.0
    row = [
        f"{sum(line.get('targets', 0) for line in lines) / seconds:,.0f}",
        f"{sum(line.get('tokens', 0) for line in lines) / seconds:,.0f}",
        f"{100 * lines[-1].get('padding_share', 0.0):.1f}%",
        f"{max(line.get('memory_mb') or 0.0 for line in lines):,.0f} MB",
        f"{100 * lines[-1]['mfu']:.1f}%" if lines[-1].get("mfu") else "device's peak not known",
        f"{lines[-1].get('label_mass') or 0.0:.4f}",
        f"{lines[-1].get('skipped_steps', 0)}",
    ]
    columns = (
        "targets/s", "tokens/s", "padding", "memory of a process", "MFU", "label mass at the end",
        "skipped steps",
    )  # fmt: skip
    return Table(columns, [row], numbers_from=0)


def _curves(lines: Any) -> list[Curve]:
    """The loss of all targets, then of each task in the order they first appear."""
    series: dict[str, list[tuple[int, float, float]]] = {}
    evaluated: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        where: Any = line.get("evaluation") or line
        for name, numbers in ({"all targets": where} | where.get("tasks", {})).items():
            loss, targets = numbers.get("loss"), numbers.get("targets", 1)
            if loss is None or not targets:
                continue
            if "evaluation" in line:
                evaluated.setdefault(name, []).append((line["step"], loss))
            else:
                series.setdefault(name, []).append((line["step"], loss, targets))
    curves = []
    for name, points in series.items():
        steps, losses, weights = zip(*points, strict=True)
        curve = Curve(
            title=name,
            steps=steps,
            losses=losses,
            weights=weights,
            eval_steps=[step for step, _ in evaluated.get(name, [])],
            eval_losses=[loss for _, loss in evaluated.get(name, [])],
        )
        curves.append(curve)
    return curves


def _loss_table(curves: list[Curve]) -> Table:
    rows = []
    for curve in curves:
        smoothed = smooth(curve.losses, curve.weights)
        last = f"{curve.eval_losses[-1]:.4f}" if curve.eval_losses else "-"
        rows.append(
            [
                curve.title,
                f"{sum(curve.weights):,.0f}",
                f"{smoothed[0]:.4f}",
                f"{smoothed[-1]:.4f}",
                last,
            ]
        )
    columns = ("loss of", "targets", "at the start", "at the end", "validation, last")
    return Table(columns, rows, "Moving averages, nats per target.")
