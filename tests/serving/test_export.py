import os
import shutil
import subprocess
import threading

import pytest

from moa_tf.ensemble.ensemble import Ensemble
from moa_tf.errors import InputError
from moa_tf.models.base import Member
from moa_tf.serving import versions
from moa_tf.serving.export import export, latest_version, load_metadata, suggest_batch_size
from moa_tf.serving.predict import load_model


def test_metadata_travels_as_an_asset(case):
    metadata = load_metadata(case.root)
    assert metadata == load_metadata(case.version)
    assert metadata["targets"] == list(case.targets)
    assert metadata["spec"] == case.spec.to_dict()
    assert metadata["networks"] == 3
    assert metadata["signatures"] == ["serving_default", "serving_examples", "classify", "explain"]
    assert metadata["fingerprint"] == "abc"
    assert metadata["simulated"] is True
    assert metadata["metrics"] == {"macro_auroc": None}
    assert {"moa-tf", "tensorflow", "keras", "numpy"} <= set(metadata["versions"])


def test_versions_count_up_from_the_highest_number(tmp_path, export_again):
    for name in ("9", "10", "x11", "12.old"):
        (tmp_path / name).mkdir()
    (tmp_path / "10" / "kept").write_text("kept")
    assert export_again(tmp_path) == tmp_path / "11"
    assert (tmp_path / "10" / "kept").read_text() == "kept"
    assert latest_version(tmp_path) == tmp_path / "11"
    assert export_again(tmp_path) == tmp_path / "12"
    assert latest_version(tmp_path) == tmp_path / "12"
    assert latest_version(tmp_path / "11") == tmp_path / "11"
    assert "explain" not in load_metadata(tmp_path)["signatures"]


def test_batch_size_follows_the_widest_layer_also_of_a_nested_model():
    import keras

    x = keras.Input((8,), name="x")
    preprocessing = keras.Model({"x": x}, {"x": keras.layers.Rescaling(2.0)(x)})
    image = keras.Input((100, 100, 1))
    # 100 × 100 × 40 values: 128 MB hold 83 signatures.
    convolution = keras.Model(image, keras.layers.Conv2D(40, 1)(image))
    h = keras.layers.Reshape((100, 100, 1))(keras.layers.Dense(10_000)(x))
    wide = keras.Model({"x": x}, keras.layers.GlobalAveragePooling2D()(convolution(h)))
    narrow = keras.Model({"x": x}, keras.layers.Dense(40)(x))
    assert suggest_batch_size([Member(preprocessing, [narrow])]) == 4096
    assert suggest_batch_size([Member(preprocessing, [narrow, wide])]) == 64


@pytest.mark.parametrize("step", ["_save", "sync_tree", "publish"])
def test_a_failure_at_any_step_leaves_no_version(tmp_path, monkeypatch, export_again, step):
    from moa_tf.serving import export as module

    original = getattr(module, step)

    def fail(*arguments):
        if step == "_save":
            original(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, step, fail)
    with pytest.raises(KeyboardInterrupt):
        export_again(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_version_reaches_the_disk_before_it_has_its_number_and_its_root_after(
    tmp_path, monkeypatch, export_again
):
    """Each call is made as it is, and written down with the file that it is about."""
    calls = []
    fsync = os.fsync

    def record(handle):
        path = os.readlink(f"/proc/self/fd/{handle}")
        calls.append((os.path.basename(path), (tmp_path / "1").exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    version = export_again(tmp_path)
    before = {name for name, numbered in calls if not numbered}
    assert before >= {path.name for path in version.rglob("*")} | {"model"}
    assert [name for name, numbered in calls if numbered] == [tmp_path.name]


def test_while_it_is_written_no_number_is_to_be_seen(tmp_path, monkeypatch, export_again):
    from moa_tf.serving import export as module

    seen = []
    original = module.publish
    monkeypatch.setattr(
        module, "publish", lambda *arguments: (seen.extend(os.listdir(tmp_path)), original(*arguments))[1]
    )
    export_again(tmp_path)
    assert len(seen) == 1
    assert seen[0].startswith(".tmp-")
    assert os.listdir(tmp_path) == ["1"]


def test_publishers_at_once_get_different_versions(tmp_path):
    parts = [tmp_path / f".tmp-{i}" for i in range(8)]
    for part in parts:
        part.mkdir()
        (part / "saved_model.pb").write_text(part.name)
    barrier, got = threading.Barrier(len(parts)), {}

    def work(part):
        barrier.wait()
        got[part.name] = versions.publish(part, tmp_path)

    threads = [threading.Thread(target=work, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(path.name) for path in got.values()) == list(range(1, 9))
    for name, path in got.items():
        assert (path / "saved_model.pb").read_text() == name


def test_where_no_version_can_be_written(tmp_path, case, export_again):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        export_again(tmp_path / "file")
    with pytest.raises(InputError, match="is a SavedModel itself"):
        export_again(case.version)


@pytest.mark.parametrize("name", ["m[9]", "a*", "what?", "a\\b"])
def test_a_root_that_tensorflow_could_not_load_from_is_refused(
    tmp_path, case, export_again, monkeypatch, name
):
    with pytest.raises(InputError, match="TensorFlow takes"):
        export_again(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="TensorFlow takes"):
        export_again(name)
    assert list(tmp_path.iterdir()) == []
    shutil.copytree(case.version, tmp_path / name / "1")
    with pytest.raises(InputError, match="TensorFlow takes"):
        load_model(name)


def test_a_full_disk_leaves_no_version(tmp_path, export_again):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", disk]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        with pytest.raises(InputError) as caught:
            export_again(disk / "new" / "models")
        assert str(caught.value) == f"{disk / 'new' / 'models'}: cannot be written (No space left on device)"
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_networks_must_fit_the_target_names(tmp_path, case, export_again):
    with pytest.raises(ValueError, match="3 logits for 2 target names"):
        export_again(tmp_path, target_names=["a", "b"])
    with pytest.raises(ValueError, match="no network"):
        export(Ensemble.of([]), tmp_path, spec=case.spec, target_names=["a"], metadata={})


def test_what_is_no_exported_model(tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        latest_version(tmp_path / "none")
    (tmp_path / "1").mkdir()
    with pytest.raises(InputError, match="holds no SavedModel"):
        latest_version(tmp_path)
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"")
    with pytest.raises(InputError, match=r"metadata\.json"):
        load_metadata(tmp_path)
