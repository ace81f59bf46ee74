"""What ``tuner status ID`` says of failures: each reason once, with the part of it that helps."""

import json

from db.store import Store
from tuner.cli.look import failure_lines
from tuner.results.status import describe

LOG = """\
In file included from /tmp/tuner-{0}/main.cpp:1:
/tmp/tuner-{0}/main.cpp:{0}:10: fatal error: torch/no_such_header.h: No such file or directory
compilation terminated.
RuntimeError: Command '['ninja', '-v']' returned non-zero exit status 1, and a long text about how it was called {1}
"""


def test_a_reason_is_said_once_and_not_cut_at_its_front(tmp_path, scene):
    """Catches the last characters of each log, ten times: the compiler's error stood before them."""
    with Store.open(f"sqlite:///{tmp_path}/a.db") as store:
        found = scene(store)
        sweep = found.sweep()
        for number in range(5):
            reason = LOG.format(number, "x" * 400)
            store.trials.commit(found.trial(sweep, number, state="COMPILE_ERROR", objective=None, reason=reason))
        store.trials.commit(found.trial(sweep, 5, state="TIMEOUT", objective=None, reason="no answer within 60 s"))
        document = describe(store, sweep)
    assert json.loads(json.dumps(document, default=str))["trials_by_state"] == {"COMPILE_ERROR": 5, "TIMEOUT": 1}
    failures = document["failures"]
    assert [f["number"] for f in failures] == list(range(6))
    first, second = failure_lines(failures)
    assert first.startswith("trials 0, 1, 2, 3, 4 COMPILE_ERROR: /tmp/tuner-0/main.cpp:0:10: fatal error: torch/")
    assert second == "trial 5 TIMEOUT: no answer within 60 s"
