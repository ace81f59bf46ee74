"""The killable process itself: limits, logs, and that nobody is left when a parent dies."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from workers.devices.device import CaptureError
from workers.errors import DeviceLostError, ProcessChangedError
from workers.records import Status
from workers.sandbox.child import raised
from workers.sandbox.fork_server import ForkRequest
from workers.sandbox.messages import ChildDiedError, ChildRaisedError, Phase, PhaseKind, PhaseTimeoutError, Raised
from workers.sandbox.process import ChildProcess

ROOT = Path(__file__).resolve().parents[3]

HANDLER = """
import os, time

from workers.sandbox.messages import Phase, PhaseKind

class Handler:
    def __init__(self, send, greeting):
        self.send, self.greeting = send, greeting

    def greet(self):
        return self.greeting

    def phases(self, phases):
        for phase in phases:
            self.send("phase", phase)
            self.send("event", str(phase))
            if phase.of == "slow":
                time.sleep(600)

    def forge(self, kind, payload):
        self.send(kind, payload)
        time.sleep(600)

    def fail(self, error):
        raise error

    def unsendable(self):
        return lambda: None

    def talk(self, size):
        print("begin", "x" * size, "end")

    def grow(self):
        held = []
        while True:
            held.append(bytearray(1 << 24))

    def die(self, number):
        os.kill(os.getpid(), number)

    def spawn(self):
        import subprocess
        return os.getpid(), subprocess.Popen(["sleep", "1000"], start_new_session=True).pid
"""


@pytest.fixture(scope="module")
def handler_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handlers")
    (folder / "toy_handler.py").write_text(HANDLER)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def child(handler_path):
    process = ChildProcess(ForkRequest("toy_handler:Handler", ("hello",), data_limit_bytes=1 << 30))
    yield process
    process.close()


LIMITS_S = {PhaseKind.LOAD: 30.0, PhaseKind.CHECK: 0.3, PhaseKind.MEASURE: 30.0}
LOAD = Phase(PhaseKind.LOAD)


def call(child, method, *args, phase=LOAD, **more):
    return child.call(method, *args, limits_s=LIMITS_S, phase=phase, **more)


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_arguments_may_be_larger_than_a_message(handler_path, size):
    """A problem with some hundred workloads is: its fork server died of it."""
    large = ChildProcess(ForkRequest("toy_handler:Handler", ("x" * size,)))
    try:
        assert call(large, "greet")[0] == "x" * size
    finally:
        large.close()


def test_result_and_reuse(child):
    assert call(child, "greet")[0] == "hello"
    pid = child.pid
    assert call(child, "greet")[0] == "hello"
    assert child.pid == pid


def test_each_phase_has_its_own_limit_and_events_arrive_before_the_end(child):
    events, phases = [], []
    quick, slow, last = (Phase(kind, of) for kind, of in zip(LIMITS_S, ("quick", "slow", "last"), strict=True))
    with pytest.raises(PhaseTimeoutError, match=r"phase 'check slow' took longer than 0.3 s") as caught:
        call(child, "phases", [quick, slow, last], on_event=events.append, on_phase=phases.append)
    assert caught.value.phase == slow
    assert caught.value.status is Status.TIMEOUT
    assert "in phases" in caught.value.log, "the log says where it hung"
    assert events == ["load quick", "check slow"]
    assert phases == [quick, slow]
    assert call(child, "greet")[0] == "hello"
    assert child.forks == 2


def test_whether_a_graph_is_possible_is_not_read_from_a_name():
    """A candidate may call its exceptions as it likes."""
    theirs = type("CaptureError", (RuntimeError,), {})
    assert [raised(e).no_graph for e in (theirs("no"), CaptureError("no"))] == [False, True]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DeviceLostError("gone"), Status.CRASHED),
        (ProcessChangedError("umask"), Status.PROCESS_CHANGED),
        (ValueError("DeviceLostError: gone"), None),
        (RuntimeError("ProcessChangedError"), None),
    ],
)
def test_what_an_exception_means_is_not_read_from_its_text(child, error, status):
    with pytest.raises(ChildRaisedError) as caught:
        call(child, "fail", error)
    assert caught.value.status is status
    assert caught.value.raised == Raised(type(error).__name__, str(error), status)


def test_frames_of_cpp_behind_a_message_of_torch_reach_nobody(child):
    frames = "\nException raised from unpack at numbers.h:79 (most recent call first):\nframe #0: c10::Error"
    with pytest.raises(ChildRaisedError) as caught:
        call(child, "fail", RuntimeError(f"size is too large{frames}"))
    assert caught.value.raised == Raised("RuntimeError", "size is too large", None)


def test_a_message_begins_with_its_first_word(child):
    """Compilers paint their errors, and begin them with an empty line that would be all that a table shows."""
    with pytest.raises(ChildRaisedError) as caught:
        call(child, "fail", RuntimeError("\n\x1b[91m\x1b[1merror:\x1b[0m no such layout\n"))
    assert caught.value.raised == Raised("RuntimeError", "error: no such layout", None)


@pytest.mark.parametrize("message", [("phase", "load x"), ("phase", None), ("raised", "ValueError: x")])
def test_message_of_another_form_is_a_death(child, message):
    with pytest.raises(ChildDiedError):
        call(child, "forge", *message)
    assert call(child, "greet")[0] == "hello"


def test_answer_that_cannot_be_sent(child):
    with pytest.raises(ChildRaisedError, match="cannot be sent"):
        call(child, "unsendable")
    assert call(child, "greet")[0] == "hello"


def test_log_keeps_both_ends(child):
    _, log = call(child, "talk", 10_000_000)
    assert log.startswith("begin xxx")
    assert log.endswith("end\n")
    assert "bytes left out" in log
    assert len(log) < 40_000
    assert call(child, "greet")[1] == ""


def test_memory_limit_is_the_childs_error(child):
    with pytest.raises(ChildRaisedError, match="MemoryError"):
        call(child, "grow")


def test_killed_child_is_told_apart_from_an_exit(child):
    with pytest.raises(ChildDiedError, match="signal 9"):
        call(child, "die", signal.SIGKILL)
    assert call(child, "greet")[0] == "hello"


def test_a_child_that_was_killed_while_idle_is_not_the_next_calls_fault(child, left_after):
    call(child, "greet")
    idle = psutil.Process(child.pid)
    idle.kill()
    assert left_after(20, [idle]) == []
    assert call(child, "greet")[0] == "hello"
    assert child.pid != idle.pid


def test_killed_template_is_replaced(child, left_after):
    call(child, "greet")
    forked = psutil.Process(child.pid)
    psutil.Process(child.fork_server_pid).kill()
    assert left_after(20, [forked]) == []
    assert call(child, "greet")[0] == "hello"
    child.kill()
    idle = psutil.Process(child.fork_server_pid)
    idle.kill()
    assert left_after(20, [idle]) == []
    assert call(child, "greet")[0] == "hello"


def test_close_ends_everything(child):
    (pid, grandchild), _ = call(child, "spawn")
    fork_server = child.fork_server_pid
    child.close()
    assert not any(map(psutil.pid_exists, (pid, grandchild, fork_server)))


def test_close_does_not_wait_for_a_fork_server_that_still_imports(handler_path):
    """It would end by itself, with 0, once its imports are done."""
    (handler_path / "slow_to_import.py").write_text("import time; time.sleep(3)")
    process = ChildProcess(ForkRequest("toy_handler:Handler", ("hello",)), preload=("slow_to_import",))
    process.start()
    fork_server = process._fork_server
    process.close()
    assert fork_server.returncode == -signal.SIGKILL


PARENT = """
import sys, time
from workers.sandbox.messages import ChildDiedError, ChildRaisedError, Phase, PhaseKind, PhaseTimeoutError, Raised
from workers.sandbox.process import ChildProcess
from workers.sandbox.fork_server import ForkRequest

child = ChildProcess(ForkRequest("toy_handler:Handler", ("hello",)))
(pid, grandchild), _ = child.call("spawn", limits_s={PhaseKind.LOAD: 60.0}, phase=Phase(PhaseKind.LOAD))
print(pid, grandchild, child.fork_server_pid, flush=True)
if sys.argv[1] == "busy":
    slow = Phase(PhaseKind.CHECK, "slow")
child.call("phases", [slow], limits_s=dict.fromkeys(PhaseKind, 600.0), phase=Phase(PhaseKind.LOAD))
time.sleep(600)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_killed_parent_leaves_no_orphan(handler_path, state, left_after):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(handler_path)])}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, state], env=env, stdout=subprocess.PIPE, text=True)
    family = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    assert left_after(20, family) == []
