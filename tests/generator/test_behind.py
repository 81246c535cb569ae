"""Work behind the caller: done beside it or at once, and never lost."""

import threading

import pytest

from worldloom.generator.behind import Behind
from worldloom.scene.errors import JobCancelled, StorageFull


def test_the_caller_goes_on_while_the_work_is_done():
    begun, may_end = threading.Event(), threading.Event()

    def work():
        begun.set()
        assert may_end.wait(10)

    with Behind(beside=True) as behind:
        behind.start(work)
        assert begun.wait(10)
        may_end.set()


def test_without_a_second_thread_the_work_is_done_at_once():
    names = []
    with Behind(beside=False) as behind:
        behind.start(lambda: names.append(threading.current_thread()))
        assert names == [threading.current_thread()]


def full():
    raise StorageFull("no space")


def test_an_error_of_the_work_reaches_the_caller():
    with Behind(beside=True) as behind:
        behind.start(full)
        with pytest.raises(StorageFull):
            behind.wait()


def test_an_error_that_nobody_waited_for_comes_at_the_end():
    behind = Behind(beside=True)
    behind.start(full)
    with pytest.raises(StorageFull):
        behind.__exit__(None, None, None)


def test_an_error_of_the_caller_waits_for_the_work_and_wins(caplog):
    done = []

    def work():
        done.append(1)
        full()

    def fail():
        with Behind(beside=True) as behind:
            behind.start(work)
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        fail()
    assert done == [1]
    assert "failed too" in caplog.text
