"""Downloads against a server on this machine that misbehaves on purpose."""

import errno
import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import pytest

from data_pipeline.errors import DataError
from data_pipeline.sources import fetch
from data_pipeline.sources.fetch import download

CONTENT = bytes(range(256)) * 2_000
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `script` says how each request in turn is spoilt."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[str] = []
        self.ranges: list[str | None] = []
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        how = self.server.script.pop(0) if self.server.script else "well"
        if how.isdigit():
            self.send_error(int(how))
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and how != "whole" else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        if how == "silent":
            self.server.release.wait(10)
            return
        body = CONTENT[::-1] if how == "wrong" else CONTENT
        body = body[start : start + 100_000] if how == "truncated" else body[start:]
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "data.zip"


def failing(server_url: str, target: Path, **settings: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        download(server_url, target, pause=0, **settings)
    assert not target.exists()
    assert caught.value.file == server_url
    assert caught.value.remedy
    return caught.value


def test_file_arrives_and_progress_is_told(server: Server, target: Path) -> None:
    told: list[tuple[int, int | None]] = []
    assert download(server.url, target, md5=MD5, progress=lambda *a: told.append(a)) == target
    assert target.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert told == sorted(told)
    assert [path.name for path in target.parent.iterdir()] == ["data.zip"]


def test_right_file_is_not_downloaded_again(server: Server, target: Path) -> None:
    download(server.url, target, sha256=SHA256)
    download(server.url, target, sha256=SHA256.upper())
    assert len(server.ranges) == 1
    target.write_bytes(b"spoilt")
    download(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_truncated_response_is_continued(server: Server, target: Path) -> None:
    server.script = ["truncated", "truncated"]
    download(server.url, target, md5=MD5, pause=0)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]


def test_next_call_continues_where_the_last_one_stopped(server: Server, target: Path) -> None:
    server.script = ["truncated"]
    error = failing(server.url, target, attempts=1)
    assert "closed after 100,000 of 512,000 bytes" in error.message
    assert target.with_name("data.zip.part").stat().st_size == 100_000
    download(server.url, target, md5=MD5)
    assert server.ranges[-1] == "bytes=100000-"
    assert target.read_bytes() == CONTENT


def test_server_that_ignores_ranges_starts_over(server: Server, target: Path) -> None:
    server.script = ["truncated", "whole"]
    download(server.url, target, md5=MD5, pause=0)
    assert target.read_bytes() == CONTENT
    assert len(server.ranges) == 2  # the second answer replaced what was there


def test_wrong_checksum_is_refused_and_nothing_kept(server: Server, target: Path) -> None:
    server.script = ["wrong"]
    error = failing(server.url, target, md5=MD5)
    assert f"expected {MD5}" in error.message
    assert len(server.ranges) == 1  # the same bytes would come again
    assert list(target.parent.iterdir()) == []


def test_part_of_another_file_is_thrown_away(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("data.zip.part").write_bytes(b"x" * 1000)
    download(server.url, target, md5=MD5, pause=0)
    assert server.ranges == ["bytes=1000-", None]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_part_as_long_as_the_file(server: Server, target: Path, extra: bytes) -> None:
    target.parent.mkdir()
    target.with_name("data.zip.part").write_bytes(CONTENT + extra)
    download(server.url, target, md5=MD5, pause=0)
    assert target.read_bytes() == CONTENT
    assert len(server.ranges) == (2 if extra else 1)


def test_passing_failure_is_tried_again(server: Server, target: Path) -> None:
    server.script = ["503", "429"]
    download(server.url, target, md5=MD5, pause=0)
    assert len(server.ranges) == 3


def test_final_answer_is_not_tried_again(server: Server, target: Path) -> None:
    server.script = ["404"]
    error = failing(server.url, target)
    assert "404" in error.message
    assert len(server.ranges) == 1


def test_refused_connection_says_url_attempts_and_remedy(target: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/data.zip"
    error = failing(url, target, attempts=2, remedy="use --from DIR")
    assert "failed after 2 attempts: the server is not reachable" in error.message
    assert url in str(error)
    assert error.remedy == "use --from DIR"


def test_silent_server_is_given_up(server: Server, target: Path) -> None:
    server.script = ["silent"]
    error = failing(server.url, target, attempts=1, timeout=0.2)
    assert "timed out" in error.message


def test_address_that_is_none(target: Path) -> None:
    assert "the address is none" in failing("not an address", target).message


def test_full_disk_is_said(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    class Full:
        def __init__(self, file: IO[bytes]) -> None:
            self.file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, _: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch.Path, "open", lambda self, mode: Full(real(self, mode)))
    with pytest.raises(DataError, match="no space left"):
        download(server.url, target, md5=MD5, pause=0)
    assert not target.exists()
