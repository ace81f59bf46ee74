"""The line in front of an evaluator: in order, with a view of who is next."""

import threading

from workers.cluster.actors import Line


def test_threads_have_their_turn_one_at_a_time_in_order_and_see_who_is_next():
    line = Line()
    seen = []
    waiting = []

    def stand_in_line(name):
        with line.turn(name):
            seen.append((name, line.ahead()))

    with line.turn("first"):
        for name in ("second", "third", "fourth"):
            threads = len(line._tickets)
            waiting.append(threading.Thread(target=stand_in_line, args=(name,)))
            waiting[-1].start()
            with line._changed:
                line._changed.wait_for(lambda n=threads: len(line._tickets) > n, timeout=30)
        assert line.ahead() == "second"
        assert seen == []
    for thread in waiting:
        thread.join(30)
    assert seen == [("second", "third"), ("third", "fourth"), ("fourth", None)]


def test_turn_that_raises_is_over():
    line = Line()
    try:
        with line.turn("bad"):
            raise ValueError
    except ValueError:
        pass
    with line.turn("good"):
        assert line.ahead() is None
