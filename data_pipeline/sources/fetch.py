"""Downloads that resume, retry, and are believed only when their checksum is right."""

import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.files import disk_full_explained, hash_file
from data_pipeline.sources.base import Progress

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 16
_WORTH_A_RETRY = (408, 429)


class _FailedError(Exception):
    """One attempt failed; `final` when another would fail the same way."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    progress: Progress | None = None,
    timeout: float = 10.0,
    attempts: int = 4,
    pause: float = 0.5,
    remedy: str = "check the network and the proxy settings, then try again",
) -> Path:
    """Download a file; `target` appears only when it is whole and its checksum is right.

    What arrived so far stands in `target` + ".part" and is continued by the next attempt or call.

    Args:
        url: an http or https address.
        target: where the file is to stand. When it stands there with the right checksum, nothing
            is downloaded.
        sha256: its expected hash, hexadecimal.
        md5: the same, where a publisher gives only this.
        progress: called after every chunk.
        timeout: seconds to wait for a connection and for every chunk.
        attempts: how often to try.
        pause: seconds before the second attempt; doubled before each further one.
        remedy: for the error message.

    Raises:
        DataError: unreachable, wrong checksum, or no space; says what was tried.
    """
    expected = {"sha256": sha256, "md5": md5}
    if target.exists() and _wrong_hash(target, expected) is None:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    reason = ""
    for attempt in range(1, attempts + 1):
        try:
            with disk_full_explained(part):
                _attempt(url, part, expected, progress, timeout)
            part.replace(target)
            return target
        except _FailedError as failure:
            reason = str(failure)
            log.info("download of %s, attempt %d of %d: %s", url, attempt, attempts, reason)
            if failure.final:
                break
        if attempt < attempts:
            time.sleep(pause * 2 ** (attempt - 1))
    raise DataError(
        f"the download failed after {attempt} attempts: {reason}", file=url, remedy=remedy
    )


def _attempt(
    url: str,
    part: Path,
    expected: dict[str, str | None],
    progress: Progress | None,
    timeout: float,
) -> None:
    start = part.stat().st_size if part.exists() else 0
    try:
        with _connected(url, start, timeout) as response:
            start = start if response.status == 206 else 0
            length = response.headers.get("Content-Length")
            total = None if length is None else start + int(length)
            done = _copy(response, part, start, total, progress)
    except _RangeRefusedError as error:  # what is there is as long as the file, or longer
        if _wrong_hash(part, expected) is not None or not any(expected.values()):
            part.unlink()
            raise _FailedError("the part from before does not fit: starting over") from error
        return
    if total is not None and done < total:
        raise _FailedError(f"the connection closed after {done:,} of {total:,} bytes")
    wrong = _wrong_hash(part, expected)
    if wrong is not None:
        part.unlink()
        raise _FailedError(wrong, final=start == 0)


class _RangeRefusedError(Exception):
    """The server has nothing behind the bytes that are here."""


@contextmanager
def _connected(url: str, start: int, timeout: float) -> Iterator[http.client.HTTPResponse]:
    """An open response; every way in which a connection fails becomes `_FailedError`."""
    headers = {"User-Agent": "brewhouse", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=timeout) as response:
            yield response
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:
            raise _RangeRefusedError from error
        is_final = error.code < 500 and error.code not in _WORTH_A_RETRY
        raise _FailedError(
            f"the server answered {error.code} {error.reason}", final=is_final
        ) from error
    except urllib.error.URLError as error:
        raise _FailedError(f"the server is not reachable: {error.reason}") from error
    except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _FailedError(f"the connection broke: {error or type(error).__name__}") from error
    except ValueError as error:
        raise _FailedError(f"the address is none: {error}", final=True) from error


def _copy(
    response: http.client.HTTPResponse,
    part: Path,
    start: int,
    total: int | None,
    progress: Progress | None,
) -> int:
    done = start
    with part.open("ab" if start else "wb") as file:
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    return done


def _wrong_hash(path: Path, expected: dict[str, str | None]) -> str | None:
    """What is wrong with a file's checksum; None when nothing is."""
    for algorithm, wanted in expected.items():
        if wanted is None:
            continue
        found = hash_file(path, algorithm)
        if found != wanted.lower():
            return f"its {algorithm} is {found}, expected {wanted}"
    return None
