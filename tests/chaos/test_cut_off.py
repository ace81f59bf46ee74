"""A node that its network cuts off and that comes back: a machine in a network namespace, real raylets and workers."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.chaos.network import Machine, why_not
from tests.chaos.scene import CONFIGS, ROOT, STORE_BYTES, Scene, finish, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SHORT_S = 8.0
"""Less than Ray takes to give a node up, and time for many trials of this sweep."""
RAY_FOLDER = Path("/tmp/ray")


class Distant(Scene):
    """The node that evaluates is another machine."""

    def __init__(self, folder: Path) -> None:
        RAY_FOLDER.mkdir(exist_ok=True)
        self.machine = Machine(folder / "machine.log", own=(folder, RAY_FOLDER))
        super().__init__(folder, node_ip_address=self.machine.here)
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--address", self.cluster.address]
        slot = ["--num-cpus", "1", "--resources", '{"tuner_evaluator": 1}', "--object-store-memory", str(STORE_BYTES)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.machine.keep_running([*ray, "--node-ip-address", self.machine.address, *slot], environment)
        wait_until(lambda: self.lives() == [True], "node in the namespace")

    def lives(self) -> list[bool]:
        """For each time that the machine joined the cluster, whether the cluster thinks that it is there."""
        nodes = self.cluster.global_state.node_table()
        return sorted(n["Alive"] for n in nodes if n["NodeManagerAddress"] == self.machine.address)

    def workers(self) -> list[int]:
        """Processes of ours on the machine: actors, templates, candidates."""
        return [p for p in self.machine.processes() if _is_ours(p)]

    def close(self) -> None:
        """End both machines."""
        self.machine.close()
        self.cluster.shutdown()


def _is_ours(pid: int) -> bool:
    try:
        line = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False
    return "workers.sandbox.fork_server" in line or "ray::EvaluatorActor" in line


@pytest.fixture(name="scene")
def _scene(tmp_path, monkeypatch):
    if reason := why_not():
        pytest.skip(f"no network namespace can be made here: {reason}")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # on a busy machine the workers would starve
    found = Distant(tmp_path)
    yield found
    found.close()


def test_a_short_cut_only_costs_its_own_time(scene):
    """The cluster does not notice, and what was sent during it arrives after it."""
    process = scene.sweep()
    scene.wait_for_trials(3, process)
    scene.machine.cut()
    before = scene.trials()
    time.sleep(SHORT_S)
    during = scene.trials() - before
    scene.machine.mend()
    code, out = finish(process)
    assert code == 0, out[-3000:]
    # One may have been on its way; all the others need the network.
    assert during <= 1
    assert before + during < CONFIGS
    assert scene.lives() == [True]
    scene.check()
    wait_until(lambda: not scene.workers(), "end of the workers on the machine")


def test_a_node_that_is_given_up_and_comes_back_costs_no_trial(scene):
    """The cluster takes the node for dead, while its workers live; with the network it comes back as a new node."""
    process = scene.sweep()
    scene.wait_for_trials(3, process)
    scene.machine.cut()
    wait_until(lambda: scene.lives() == [False], "verdict that the node is dead")
    before = scene.trials()
    stranded = scene.workers()
    assert process.poll() is None, process.communicate()[0][-3000:]
    scene.machine.mend()
    code, out = finish(process)
    assert code == 0, out[-3000:]
    assert stranded
    assert before < CONFIGS
    assert scene.lives() == [False, True]
    scene.check()
    wait_until(lambda: not scene.workers(), "end of the workers on the machine")
