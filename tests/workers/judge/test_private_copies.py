"""What a candidate writes beside itself stays with its process: it is in no artifact, and gone with the process."""

from pathlib import Path

from workers.records import Status

WRITES = (
    "from pathlib import Path\nimport os\nimport torch\n\nBESIDE = Path(__file__).parent / 'library.so'\n\n\n"
    "def run(x, y, out):\n"
    "    if not BESIDE.exists():\n        BESIDE.write_text('half of a library')\n        {}\n"
    "    torch.add(y, x, alpha=2, out=out)\n"
)


def test_what_it_writes_later_is_in_no_artifact(bench, make):
    variant = make(WRITES.format("pass"))
    assert bench.judge(variant).status is Status.PASSED
    entry = bench.builder._cache.get(bench.builder.build(variant).artifact)
    assert not list(Path(entry.folder).rglob("library.so"))


def test_what_a_process_left_when_it_died_is_not_there_for_the_next_one(bench, make):
    """Cut off while it built its library, it would load half of one ever after, or pass where it failed."""
    variant = make(WRITES.format("os._exit(3)"))
    assert bench.judge(variant).status is Status.CRASHED
    assert bench.judge(variant).status is Status.CRASHED
    assert bench.judge(make(key="good")).status is Status.PASSED


def test_changing_its_own_files_harms_no_other_process(bench, make):
    variant = make(WRITES.format("Path(__file__).write_text('broken')"))
    assert bench.judge(variant).status is Status.PASSED
    bench.evaluator.release()
    assert bench.judge(variant).status is Status.PASSED
