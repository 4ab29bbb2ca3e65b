import pytest

from moa_tf.errors import InputError
from moa_tf.training.strategy import make_placement


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
