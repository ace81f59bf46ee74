"""The artifact cache: atomic, verified, bounded."""

import json
import os

import pytest

from workers.build.artifact_cache import ArtifactCache


@pytest.fixture
def cache(tmp_path):
    return ArtifactCache(tmp_path / "cache")


def publish(cache, digest, text="code", meta=None):
    staged = cache.stage()
    (staged / "package" / "__pycache__").mkdir(parents=True)
    (staged / "package" / "__pycache__" / "main.pyc").write_text("what runs")
    (staged / "package" / "kernel.bin").write_text(text)
    return cache.publish(digest, staged, meta or {"figures": {"registers": 1}})


def test_published_entry_is_found_with_its_meta(cache):
    publish(cache, "a" * 32)
    entry = cache.get("a" * 32)
    assert (entry.folder / "package" / "kernel.bin").read_text() == "code"
    assert entry.meta == {"figures": {"registers": 1}}
    assert cache.get("b" * 32) is None


DAMAGE = {
    "changed file": lambda folder: (folder / "package" / "kernel.bin").write_text("c0de"),
    "changed bytecode": lambda folder: (folder / "package" / "__pycache__" / "main.pyc").write_text("something else"),
    "missing file": lambda folder: (folder / "package" / "kernel.bin").unlink(),
    "cut manifest": lambda folder: (folder / "manifest.json").write_text('{"format": 1, "fi'),
    "foreign manifest": lambda folder: (folder / "manifest.json").write_text("[]"),
    "other format": lambda folder: (folder / "manifest.json").write_text(json.dumps({"format": 0, "files": {}})),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_entry_is_a_miss_and_can_be_replaced(cache, how):
    DAMAGE[how](publish(cache, "a" * 32).folder)
    assert cache.get("a" * 32) is None
    publish(cache, "a" * 32, "new")
    assert (cache.get("a" * 32).folder / "package" / "kernel.bin").read_text() == "new"


def test_damaged_entry_does_not_block_a_publish(cache):
    DAMAGE["changed file"](publish(cache, "a" * 32).folder)
    publish(cache, "a" * 32, "new")
    assert (cache.get("a" * 32).folder / "package" / "kernel.bin").read_text() == "new"


def test_first_of_two_publishers_wins(cache):
    publish(cache, "a" * 32, "first")
    entry = publish(cache, "a" * 32, "second")
    assert (entry.folder / "package" / "kernel.bin").read_text() == "first"
    assert list((cache.root / "staging").iterdir()) == []


def test_files_made_after_publishing_do_no_harm(cache):
    entry = publish(cache, "a" * 32)
    (entry.folder / "package" / "__pycache__" / "other.pyc").write_text("x")
    assert cache.get("a" * 32) is not None


def test_least_recently_used_goes_first(tmp_path):
    cache = ArtifactCache(tmp_path, limit_bytes=3000)
    for age, digest in ((9000, "old"), (8000, "older use"), (0, "fresh")):
        entry = publish(cache, digest, "x" * 1000)
        stamp = os.stat(entry.folder).st_mtime - age
        os.utime(entry.folder, (stamp, stamp))
    assert [cache.get(d) is not None for d in ("old", "older use", "fresh")] == [False, True, True]


def test_recently_used_entries_stay_even_above_the_limit(tmp_path):
    cache = ArtifactCache(tmp_path, limit_bytes=1)
    publish(cache, "a", "x" * 1000)
    publish(cache, "b", "x" * 1000)
    assert cache.get("a") is not None
    assert cache.get("b") is not None


def test_packed_entry_arrives_whole(cache, tmp_path):
    entry = publish(cache, "a" * 32)
    os.utime(entry.folder / "package" / "kernel.bin", (1_000_000_000, 1_000_000_000))
    other = ArtifactCache(tmp_path / "other")
    arrived = other.unpack("a" * 32, cache.pack("a" * 32))
    assert arrived.meta == entry.meta
    assert os.stat(other.get("a" * 32).folder / "package" / "kernel.bin").st_mtime == 1_000_000_000
    with pytest.raises(FileNotFoundError, match="bbb"):
        cache.pack("b" * 32)


def test_the_whole_cache_is_not_looked_at_for_each_new_entry(tmp_path, monkeypatch):
    """Builders of a long sweep spent their time counting entries: each one looked at all that were there before."""
    looks = []
    monkeypatch.setattr(ArtifactCache, "evict", lambda self: looks.append(len(list(tmp_path.rglob("manifest.json")))))
    cache = ArtifactCache(tmp_path, limit_bytes=64 * 1000)
    for number in range(40):
        staged = cache.stage()
        (staged / "artifact").write_bytes(bytes(100))
        cache.publish(f"{number:032x}", staged, {})
    assert looks == [1, 11, 21, 31]
