import json

import pytest

from moa_tf.errors import InputError
from moa_tf.training.strategy import make_placement, read_tf_config


def test_none_has_one_replica():
    assert make_placement("none").replicas == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"cluster": {}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"index": 3}}',
        # Kubeflow's TFJob with `enableDynamicWorker`: for parameter servers.
        '{"sparseCluster": {"worker": {"1": "a:1"}, "ps": ["b:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": {"1": "a:1"}}, "task": {"type": "worker", "index": 1}}',
    ],
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
    assert read_tf_config(tf_config(cluster, kind, index)).chief is chief


VERTEX = {
    "cluster": {
        "chief": ["cmle-training-workerpool0-ab-0:2222"],
        "worker": ["cmle-training-workerpool1-ab-0:2222", "cmle-training-workerpool1-ab-1:2222"],
    },
    "environment": "cloud",
    "job": '{"python_module": "", "package_uris": [], "job_args": []}',
    "task": {"type": "worker", "index": 1, "trial": "1", "cloud": "ab"},
}
KUBEFLOW = {
    "cluster": {
        "chief": ["moa-chief-0.default.svc:2222"],
        "ps": [],
        "worker": ["moa-worker-0.default.svc:2222"],
    },
    "task": {"type": "chief", "index": 0},
    "environment": "cloud",
}


@pytest.mark.parametrize(
    ("config", "chief", "kinds"),
    [
        (VERTEX, False, ["chief", "worker"]),
        (
            VERTEX | {"cluster": {"chief": ["127.0.0.1:2222"]}, "task": {"type": "chief", "index": 0}},
            True,
            ["chief"],
        ),
        (VERTEX | {"task": {"type": "chief", "index": "0"}}, True, ["chief", "worker"]),
        (KUBEFLOW, True, ["chief", "worker"]),
        ({"cluster": {"worker": ["a:1", "b:1"], "chief": []}, "task": {"index": 0}}, True, ["worker"]),
    ],
)
def test_tf_config_as_engines_set_it(config, chief, kinds):
    task = read_tf_config(json.dumps(config))
    assert task.chief is chief
    # TensorFlow, which crashes at an empty kind and at a task without a type, is told neither.
    clean = json.loads(task.to_json())
    assert list(clean["cluster"]) == kinds
    assert clean["task"] == {"type": task.kind, "index": task.index}
    assert read_tf_config(task.to_json()) == task


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
        (VERTEX["cluster"], "evaluator", 0, "TF_CONFIG: evaluator: expected"),
        ({"master": ["a:1"], "worker": ["b:1"]}, "master", 0, "TF_CONFIG: master: expected"),
        ({"worker": ["a:1"]}, "worker", 1, "task worker 1 is not one of the cluster's 1 workers"),
        ({"worker": ["a:1"]}, "chief", 0, "task chief 0 is not one of the cluster's 0 chiefs"),
        ({"chief": ["a:1", "b:1"], "worker": ["c:1"]}, "chief", 1, "2 chiefs, expected one at most"),
    ],
)
def test_tasks_that_take_no_part_are_refused(cluster, kind, index, message):
    with pytest.raises(InputError, match=message) as error:
        read_tf_config(tf_config(cluster, kind, index))
    assert "\n" not in str(error.value)
