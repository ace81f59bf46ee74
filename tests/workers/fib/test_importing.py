"""flashinfer-bench where processes cannot share a lock."""

import subprocess
import sys

import pytest

CODE = (
    "import multiprocessing; made = multiprocessing.Lock\n"
    "from workers.fib.adapter import definition_model\n"
    "from tuner.sweeps.setup import open_dataset\n"
    "print(definition_model(open_dataset(None).definition('gemm_n512_k1024')).name)\n"
    "assert multiprocessing.Lock == made\n"
)


@pytest.mark.parametrize("options", ["ro", "size=4k"])
def test_flashinfer_bench_is_imported_without_shared_memory(options):
    """``size=4k`` has room for one such lock, and another process has taken it."""
    taken = "from multiprocessing import Lock; kept = Lock(); " if options == "size=4k" else ""
    code = f"{taken}import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {CODE!r}]).returncode)"
    words = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("such a namespace cannot be made here")
    done = subprocess.run([*words, sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "gemm_n512_k1024\n"), done.stderr
