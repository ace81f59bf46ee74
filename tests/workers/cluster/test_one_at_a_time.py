"""Two sweeps on one machine, each with an evaluator of its own: never are two candidates timed at a time."""

import threading

from workers.cluster.actors import EvaluatorActor
from workers.devices import device_lock
from workers.records import Deadlines, EvaluationJob, Method, Status

QUICK = Method(warmup_s=0.0, min_samples=3, max_samples=6, budget_s=0.5, cold_cache=False)
ALONE = """
import os
import time
import torch


def run(x, y, out):
    if "workers.judge.judge" in __import__("sys").modules:
        os.close(os.open({place!r}, os.O_CREAT | os.O_EXCL))  # raises if another one is at it
        time.sleep(0.005)
        os.unlink({place!r})
    torch.add(y, x, alpha=2, out=out)
"""


def test_two_sweeps_at_once_take_turns_on_the_device(bench, make, tmp_path, monkeypatch):
    monkeypatch.setattr(device_lock, "FOLDER", tmp_path / "devices")
    actors = [EvaluatorActor(bench.problem, "cpu", str(bench.cache_dir), Deadlines()) for _ in range(2)]
    variant = make(ALONE.format(place=str(tmp_path / "busy")), key="alone")
    job = EvaluationJob(variant.built(bench.builder.build(variant).artifact), bench.workloads, QUICK)
    found = []

    def sweep(actor):
        actor.warm()
        for _ in range(6):
            found.append(actor.evaluate(job, None))

    try:
        threads = [threading.Thread(target=sweep, args=(actor,)) for actor in actors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert [(e.status, e.message) for e in found] == [(Status.PASSED, "")] * 12
    finally:
        for actor in actors:
            actor.close()
