"""What a source names: literal names, braces, patterns, lists and URLs."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from channeltok.datasets import SourceError
from channeltok.datasets.sources import find_shards

from tests.client.datasets.sources.support import (
    JPEG,
    keys,
    link,
    member,
    read,
    tar_bytes,
    write_files,
    write_tar,
)


@pytest.mark.parametrize("name", ["photos [2019]", "what?", "a*b", "{a,b}", "50%", "x{", "#1"])
def test_what_exists_is_meant_literally(tmp_path: Path, name: str) -> None:
    write_files(tmp_path, f"{name}/x.jpg", "a/no.jpg", "photos 2/no.jpg", "whatx/no.jpg")
    assert keys(read(tmp_path / name)[0]) == ["x"]
    tar = write_tar(tmp_path / f"{name}.tar", [member("x.jpg")])
    assert keys(read(tar)[0]) == [f"{name.replace('%', '%')}/x"]


def test_braces_name_each_file(tmp_path: Path) -> None:
    for number in range(12):
        write_tar(tmp_path / f"train-{number:03d}.tar", [member("x.jpg")])
    _, _, listing = read(f"{tmp_path}/train-{{000..009}}.tar")
    assert [shard.name for shard in listing.shards] == [f"train-{n:03d}" for n in range(10)]
    _, _, listing = read(f"{tmp_path}/{{train,val}}-01{{0,1}}.tar".replace("val", "train"))
    assert [shard.name for shard in listing.shards] == ["train-010", "train-011"]
    with pytest.raises(SourceError, match=r"train-012\.tar: nothing is there"):
        find_shards(f"{tmp_path}/train-{{000..012}}.tar")


def test_braces_and_patterns_together(tmp_path: Path) -> None:
    for name in ("a/1", "b/2", "c/3"):
        write_tar(tmp_path / f"{name}.tar", [member("x.jpg")])
    _, _, listing = read(f"{tmp_path}/{{a,b}}/*.tar")
    assert [shard.name for shard in listing.shards] == ["a/1", "b/2"]


def test_patterns_that_match_folders_mean_what_is_in_them(tmp_path: Path) -> None:
    write_files(tmp_path, "2019/a/x.jpg", "2020/y.jpg", "other/z.jpg", "2021.jpg")
    (tmp_path / "2022").symlink_to(tmp_path / "other")
    samples, _, _ = read(f"{tmp_path}/20*")
    assert keys(samples) == ["2019/a/x", "2020/y", "2021", "2022/z"]
    assert len(read(f"{tmp_path}/**/*.jpg")[0]) == 4
    with pytest.raises(SourceError, match="nothing is there"):
        find_shards(f"{tmp_path}/1999*")


def test_lists_of_sources_are_one_dataset(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}/train.tar", [member("x.jpg")])
        write_files(tmp_path / name, "y.jpg")
    samples, skipped, listing = read([f"{tmp_path}/b", f"{tmp_path}/a/"])
    assert keys(samples) == ["a/train/x", "b/train/x", "a/y", "b/y"]
    assert [shard.name for shard in listing.shards] == ["a/train", "b/train", "images-00000"]
    assert skipped == {}
    samples, skipped, _ = read([f"{tmp_path}/a/train.tar", f"{tmp_path}/a", f"{tmp_path}/a/y.jpg"])
    assert keys(samples) == ["train/x", "y"]
    assert skipped == {"file that is named twice": 2}
    with pytest.raises(SourceError, match="gone: nothing is there"):
        find_shards([f"{tmp_path}/a", f"{tmp_path}/gone"])


def test_sources_on_several_file_systems(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/two/x.jpg", b"m")
    write_files(tmp_path, "x.jpg")
    samples, _, listing = read([str(tmp_path), "memory://two"])
    memory.rm("/two", recursive=True)
    assert keys(samples) == [f"file{tmp_path}/x", "memory/two/x"]
    assert [shard.name for shard in listing.shards] == ["images-00000", "images-00001"]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A server of the folder `web` in tmp_path."""
    (tmp_path / "web").mkdir()
    handler = functools.partial(_Quiet, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_links_in_a_tar_without_known_length_are_followed(tmp_path: Path) -> None:
    content = tar_bytes([member("x.jpg"), link("y.jpg", "x.jpg")])

    class Chunked(_Quiet):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content))

        do_HEAD = do_GET

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Chunked) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        samples, _, _ = read(f"http://127.0.0.1:{server.server_address[1]}/t.tar")
        server.shutdown()
    assert [(sample.key, sample.image) for sample in samples] == [("t/x", JPEG), ("t/y", JPEG)]


def test_queries_of_urls_are_no_suffixes(tmp_path: Path, web: str) -> None:
    for name in ("a", "b"):
        write_tar(tmp_path / f"web/{name}.tar", [member("x.jpg")])
    query = "?X-Amz-Signature=1a2b/3c.d&name=photo.jpg"
    samples, _, listing = read(f"{web}/a.tar{query}")
    assert keys(samples) == ["a/x"]
    assert listing.shards[0].name == "a"
    samples, _, _ = read([f"{web}/a.tar{query}", f"{web}/b.tar{query}"])
    assert keys(samples) == ["a/x", "b/x"]
    assert keys(read(f"{web}/{{a,b}}.tar")[0]) == ["a/x", "b/x"]
    with pytest.raises(SourceError, match=r"c\.tar.*nothing is there: 404"):
        find_shards(f"{web}/c.tar{query}")


def test_many_urls_are_read_and_each_that_is_gone_is_named(tmp_path: Path, web: str) -> None:
    for number in range(20):
        write_tar(tmp_path / f"web/{number:02d}.tar", [member("x.jpg")])
    _, _, listing = read(f"{web}/{{00..19}}.tar")
    assert [shard.name for shard in listing.shards] == [f"{number:02d}" for number in range(20)]
    assert listing.shards[0].size == (tmp_path / "web/00.tar").stat().st_size
    with pytest.raises(SourceError, match=r"20\.tar: nothing is there"):
        find_shards(f"{web}/{{00..20}}.tar")
