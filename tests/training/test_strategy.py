import json

import pytest

from moa_tf.errors import InputError
from moa_tf.training.strategy import is_chief, make_placement


def test_none_has_one_replica():
    assert make_placement("none").replicas == 1


@pytest.mark.parametrize(
    "text", ["", "{", '{"cluster": {}}', '{"cluster": {"worker": ["a:1"]}, "task": {"index": 3}}']
)
def test_multi_worker_says_what_is_wrong_with_tf_config(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match="TF_CONFIG") as error:
        make_placement("multi-worker")
    assert "\n" not in str(error.value)


def test_tpu_that_is_not_there_is_one_line():
    with pytest.raises(InputError, match="no TPU") as error:
        make_placement("tpu")
    assert "\n" not in str(error.value)


def test_logical_devices_are_for_mirrored_alone():
    with pytest.raises(InputError, match="mirrored"):
        make_placement("none", 2)


def tf_config(cluster, kind, index):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "chief"),
    [
        ({"worker": ["a:1", "b:1"]}, "worker", 0, True),
        ({"worker": ["a:1", "b:1"]}, "worker", 1, False),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "chief", 0, True),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "worker", 0, False),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "worker", 1, False),
        ({"chief": ["a:1"]}, "chief", 0, True),
    ],
)
def test_one_task_of_a_cluster_is_the_chief(cluster, kind, index, chief):
    assert is_chief(tf_config(cluster, kind, index)) is chief


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "message"),
    [
        (
            {"worker": ["a:1"], "ps": ["b:1"]},
            "ps",
            0,
            "TF_CONFIG: ps: expected tasks of type chief and worker",
        ),
        ({"worker": ["a:1"], "ps": ["b:1"]}, "worker", 0, "TF_CONFIG: ps: expected"),
        ({"worker": ["a:1"], "evaluator": ["b:1"]}, "evaluator", 0, "TF_CONFIG: evaluator: expected"),
        ({"worker": ["a:1"]}, "evaluator", 0, "TF_CONFIG: evaluator: expected"),
        ({"worker": ["a:1"]}, "worker", 1, "task worker 1 is not one of the cluster's 1 workers"),
        ({"worker": ["a:1"]}, "chief", 0, "task chief 0 is not one of the cluster's 0 chiefs"),
        ({"chief": ["a:1", "b:1"], "worker": ["c:1"]}, "chief", 1, "2 chiefs, expected one at most"),
    ],
)
def test_tasks_that_take_no_part_are_refused(cluster, kind, index, message):
    with pytest.raises(InputError, match=message) as error:
        is_chief(tf_config(cluster, kind, index))
    assert "\n" not in str(error.value)
