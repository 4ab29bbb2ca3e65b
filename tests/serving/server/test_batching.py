"""How requests are put together, with a function whose calls are seen."""

import threading

import numpy as np
import pytest

from moa_tf.serving.server.batching import Batcher, Step
from moa_tf.serving.server.errors import Refused


class Counted:
    """Doubles x, once the gate is open, and remembers the batches; a negative value is an error."""

    def __init__(self, rows=4):
        self.batches, self.gate, self.begun = [], threading.Event(), threading.Event()
        self.step = Step(self.compute, rows, frozenset({"y"}))

    def compute(self, inputs):
        self.begun.set()
        assert self.gate.wait(30)
        x = inputs["x"]
        self.batches.append(x.tolist())
        if (x < 0).any():
            raise ValueError("negative")
        return {"y": 2 * x, "fixed": np.array([7])}


def busy(*values, **options):
    """A function, and a batcher whose one thread computes these values till the gate is opened."""
    counted, batcher = Counted(), Batcher(1, **options)
    first = submit(batcher, counted, *values)
    assert counted.begun.wait(30)
    return counted, batcher, first


def submit(batcher, counted, *values):
    return batcher.submit(counted.step, {"x": np.array(values)}, len(values))


def test_what_waits_is_computed_together_and_parted_again():
    counted, batcher, first = busy(1)
    others = [submit(batcher, counted, *values) for values in ((2, 3), (4,), (5, 6))]
    counted.gate.set()
    assert first.result(30)["y"].tolist() == [2]
    assert [future.result(30)["y"].tolist() for future in others] == [[4, 6], [8], [10, 12]]
    assert others[2].result()["fixed"].tolist() == [7]
    # A batch has at most 4 rows: the last request has no room in the second one.
    assert counted.batches == [[1], [2, 3, 4], [5, 6]]
    batcher.close()


def test_one_requests_fault_is_not_the_others():
    counted, batcher, _ = busy(0)
    good, bad, also = (submit(batcher, counted, value) for value in (1, -1, 2))
    counted.gate.set()
    assert good.result(30)["y"].tolist() == [2]
    with pytest.raises(ValueError, match="negative"):
        bad.result(30)
    assert also.result(30)["y"].tolist() == [4]
    batcher.close()


def test_many_rows_are_cut_and_leave_others_their_turn():
    counted, small = Counted(2), Counted(2)
    counted.gate.set()
    small.gate.set()
    batcher = Batcher(1)
    whole = submit(batcher, counted, *range(7))
    other = submit(batcher, small, 9)
    outputs = whole.result(30)
    assert outputs["y"].tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert outputs["fixed"].tolist() == [7]
    assert other.result(30)["y"].tolist() == [18]
    assert counted.batches == [[0, 1], [2, 3], [4, 5], [6]]
    batcher.close()


def test_what_is_cancelled_is_not_computed():
    counted, batcher, _ = busy(1)
    gone = submit(batcher, counted, 2)
    assert gone.cancel()
    counted.gate.set()
    batcher.close()  # computes what waits
    assert counted.batches == [[1]]


def test_too_much_is_refused_and_closing_ends_what_waits():
    counted, batcher, _ = busy(1, limit=3)
    waiting = submit(batcher, counted, 2, 3)
    assert batcher.waiting == 2
    with pytest.raises(Refused, match="too busy") as refused:
        submit(batcher, counted, 4, 5)
    assert refused.value.status == 503
    counted.gate.set()
    batcher.close()
    assert waiting.result(0)["y"].tolist() == [4, 6]
    with pytest.raises(Refused, match="shutting down"):
        submit(batcher, counted, 1)


def test_a_batch_that_is_not_full_waits_no_longer_than_it_may():
    counted = Counted(2)
    counted.gate.set()
    batcher = Batcher(1, delay=3600)
    alone = submit(batcher, counted, 1)
    assert not alone.done()
    together = submit(batcher, counted, 2)  # now it is full
    assert [future.result(30)["y"].tolist() for future in (alone, together)] == [[2], [4]]
    assert counted.batches == [[1, 2]]
    batcher.close()
    soon = Batcher(1, delay=0.01)
    assert submit(soon, counted, 3).result(30)["y"].tolist() == [6]
    soon.close()


def test_no_rows_are_computed_too():
    counted = Counted()
    counted.gate.set()
    batcher = Batcher(1)
    assert submit(batcher, counted).result(30)["y"].tolist() == []
    batcher.close()
