"""The files in deploy/ against the schemas of their programs, and against each other; no container runs here."""

import http.server
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
GPU = DEPLOY / "kubernetes" / "gpu"
CONFIGS = ("models.config", "batching.config", "monitoring.config")
MOUNTS = {"models": "/models", "config": "/config"}


def read(path):
    """All documents of a YAML file."""
    yaml = pytest.importorskip("yaml")
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def manifests():
    """Kind -> its documents, of the base."""
    found = {}
    for name in read(BASE / "kustomization.yaml")[0]["resources"]:
        for document in read(BASE / name):
            found.setdefault(document["kind"], []).append(document)
    return found


@pytest.fixture(scope="module")
def models():
    from google.protobuf import text_format

    proto = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    text = (DEPLOY / "models.config").read_text(encoding="utf-8")
    return text_format.Parse(text, proto.ModelServerConfig()).model_config_list.config


BATCHING = {
    "max_batch_size": (1, ".google.protobuf.Int64Value"),
    "batch_timeout_micros": (2, ".google.protobuf.Int64Value"),
    "max_enqueued_batches": (3, ".google.protobuf.Int64Value"),
    "num_batch_threads": (4, ".google.protobuf.Int64Value"),
    "thread_pool_name": (5, ".google.protobuf.StringValue"),
    "allowed_batch_sizes": (6, "int64s"),
    "pad_variable_length_inputs": (7, "bool"),
    "enable_large_batch_splitting": (8, ".google.protobuf.BoolValue"),
    "max_execution_batch_size": (9, ".google.protobuf.Int64Value"),
}
PROMETHEUS = {"enable": (1, "bool"), "path": (2, "string")}
MONITORING = {"prometheus_config": (1, ".moa_tf_test.PrometheusConfig")}


def message(name):
    """An empty message of TensorFlow Serving's whose .proto file is in no package of PyPI."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="moa_tf_test.proto",
        package="moa_tf_test",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    messages = {
        "BatchingParameters": BATCHING,
        "PrometheusConfig": PROMETHEUS,
        "MonitoringConfig": MONITORING,
    }
    plain = {"int64s": kind.TYPE_INT64, "bool": kind.TYPE_BOOL, "string": kind.TYPE_STRING}
    for title, fields in messages.items():
        described = file.message_type.add(name=title)
        for field, (number, of) in fields.items():
            described.field.add(
                name=field,
                number=number,
                label=kind.LABEL_REPEATED if of == "int64s" else kind.LABEL_OPTIONAL,
                type=plain.get(of, kind.TYPE_MESSAGE),
                type_name=None if of in plain else of,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"moa_tf_test.{name}"))()


@pytest.fixture(scope="module")
def batching():
    from google.protobuf import text_format

    text = (DEPLOY / "batching.config").read_text(encoding="utf-8")
    return text_format.Parse(text, message("BatchingParameters"))


@pytest.fixture(scope="module")
def prometheus():
    from google.protobuf import text_format

    text = (DEPLOY / "monitoring.config").read_text(encoding="utf-8")
    return text_format.Parse(text, message("MonitoringConfig")).prometheus_config


@pytest.fixture(scope="module")
def compose():
    return read(DEPLOY / "compose.yaml")[0]


@pytest.fixture(scope="module")
def pod():
    return manifests()["Deployment"][0]["spec"]["template"]["spec"]


def test_models_have_names_of_their_own_and_lie_in_the_mounted_directory(models):
    assert len({model.name for model in models}) == len(models) > 0
    for model in models:
        assert model.base_path == f"{MOUNTS['models']}/{model.name}"
        assert model.model_platform == "tensorflow"


def test_labels_point_at_versions_that_are_loaded(models):
    for model in models:
        # With latest or all, which versions are loaded is not known here, and a label could lose its version.
        assert model.model_version_policy.WhichOneof("policy_choice") == "specific", model.name
        loaded = set(model.model_version_policy.specific.versions)
        assert set(model.version_labels.values()) <= loaded, model.name
        assert {"stable", "canary"} <= set(model.version_labels), model.name
        assert all(re.fullmatch(r"\w+", label) for label in model.version_labels), model.name


def test_the_last_allowed_size_is_the_largest_batch(batching):
    sizes = list(batching.allowed_batch_sizes)
    # Else TensorFlow Serving loads no model.
    assert sizes == sorted(set(sizes))
    assert not sizes or sizes[-1] == batching.max_batch_size.value
    assert batching.max_batch_size.value > 0
    assert batching.batch_timeout_micros.value >= 0
    assert batching.max_enqueued_batches.value > 0
    assert not batching.pad_variable_length_inputs
    if batching.enable_large_batch_splitting.value:
        assert 0 < batching.max_execution_batch_size.value <= batching.max_batch_size.value


def test_an_unknown_batching_parameter_is_found():
    from google.protobuf import text_format

    with pytest.raises(text_format.ParseError, match="max_batch_sise"):
        text_format.Parse("max_batch_sise { value: 1 }", message("BatchingParameters"))


def test_metrics_are_on_the_path_that_prometheus_asks(prometheus):
    assert prometheus.enable
    (job,) = read(DEPLOY / "prometheus.yml")[0]["scrape_configs"]
    assert job["metrics_path"] == prometheus.path
    assert job["static_configs"] == [{"targets": ["serving:8501"]}]
    template = manifests()["Deployment"][0]["spec"]["template"]
    assert template["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8501",
        "prometheus.io/path": prometheus.path,
    }


def test_the_config_map_holds_the_files_word_for_word():
    (config,) = manifests()["ConfigMap"]
    assert config["data"] == {name: (DEPLOY / name).read_text(encoding="utf-8") for name in CONFIGS}


def test_compose_and_kubernetes_start_the_same_server(compose, pod):
    (container,) = pod["containers"]
    for name in ("serving", "serving-gpu"):
        service = compose["services"][name]
        assert service["command"] == container["args"]
        assert service["entrypoint"] == container["command"]
    image = compose["services"]["serving"]["image"]
    assert container["image"] == image
    assert compose["services"]["serving-gpu"]["image"] == f"{image}-gpu"
    (swap,) = read(GPU / "kustomization.yaml")[0]["images"]
    assert f"{swap['name']}:{swap['newTag']}" == f"{image}-gpu"


def test_batch_threads_and_operations_get_as_many_cores_as_the_container_has(compose, pod, batching):
    cores = batching.num_batch_threads.value
    (container,) = pod["containers"]
    assert int(container["resources"]["limits"]["cpu"]) == cores
    assert f"--tensorflow_intra_op_parallelism={cores}" in container["args"]
    for name in ("serving", "serving-gpu"):
        assert int(compose["services"][name]["deploy"]["resources"]["limits"]["cpus"]) == cores


def test_files_that_flags_name_are_mounted(compose, pod):
    (container,) = pod["containers"]
    named = {flag.split("=")[1] for flag in container["args"] if "_file=" in flag}
    assert named == {f"{MOUNTS['config']}/{name}" for name in CONFIGS}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod["volumes"]}
    for target in MOUNTS.values():
        assert mounts[target]["readOnly"]
        # A file that is mounted alone does not change when its source is replaced.
        assert "subPath" not in mounts[target]
    for name in ("serving", "serving-gpu"):
        volumes = {volume["target"]: volume for volume in compose["services"][name]["volumes"]}
        assert all(volume["read_only"] for volume in volumes.values())
        assert (DEPLOY / volumes[MOUNTS["models"]]["source"]).resolve() == DEPLOY.parent / "saved_models"
        assert (DEPLOY / volumes[MOUNTS["config"]]["source"]).resolve() == DEPLOY


def test_services_run_without_rights_and_on_this_machine_alone(compose, pod):
    for name, service in compose["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert ":" in service["image"], name
    assert compose["services"]["serving-gpu"]["profiles"] == ["gpu"]
    assert compose["services"]["prometheus"]["profiles"] == ["monitoring"]
    assert pod["securityContext"]["runAsNonRoot"]
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_probes_ask_for_a_model_and_label_that_are_served(compose, pod, models):
    served = {model.name: set(model.version_labels) for model in models}
    (container,) = pod["containers"]
    assert container["startupProbe"]["httpGet"]["path"].removeprefix("/v1/models/") in served
    ready = container["readinessProbe"]["httpGet"]["path"]
    name, label = re.fullmatch(r"/v1/models/(\w+)/labels/(\w+)/metadata", ready).groups()
    assert label in served[name]
    assert f"GET {ready} HTTP" in compose["services"]["serving"]["healthcheck"]["test"][-1]


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (404, False), (503, False)])
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_health_check_of_compose_goes_by_the_answers_status(compose, status, healthy):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert check(compose, server.server_port) is healthy
        server.shutdown()
        port = server.server_port
    assert asked == ["/v1/models/mlp/labels/stable/metadata"]
    assert not check(compose, port)


def check(compose, port):
    """Whether compose.yaml's health check finds the server at `port` well."""
    command = compose["services"]["serving"]["healthcheck"]["test"]
    assert command[0] == "CMD"
    words = [word.replace("$$", "$").replace("/8501", f"/{port}") for word in command[1:]]
    return subprocess.run(words, capture_output=True, timeout=20, check=False).returncode == 0


def test_selectors_find_the_pods_and_names_the_objects():
    found = manifests()
    (deployment,) = found["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "http": 8501}
    selectors = [service["spec"]["selector"] for service in found["Service"]]
    selectors += [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [budget["spec"]["selector"]["matchLabels"] for budget in found["PodDisruptionBudget"]]
    selectors += [policy["spec"]["podSelector"]["matchLabels"] for policy in found["NetworkPolicy"]]
    for selector in selectors:
        assert selector.items() <= labels.items()
    for service in found["Service"]:
        for port in service["spec"]["ports"]:
            assert port["port"] == ports[port["targetPort"]]
    (autoscaler,) = found["HorizontalPodAutoscaler"]
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert autoscaler["spec"]["minReplicas"] == deployment["spec"]["replicas"] == 2
    volumes = {volume["name"]: volume for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] == found["ConfigMap"][0]["metadata"]["name"]
    claim = found["PersistentVolumeClaim"][0]["metadata"]["name"]
    assert volumes["models"]["persistentVolumeClaim"] == {"claimName": claim, "readOnly": True}


def test_no_file_is_left_out_of_its_kustomization():
    for directory in (BASE, GPU):
        kustomization = read(directory / "kustomization.yaml")[0]
        named = {*kustomization["resources"], *(patch["path"] for patch in kustomization.get("patches", ()))}
        there = {path.name for path in directory.iterdir()} - {"kustomization.yaml"}
        assert named - {"../base"} == there


def test_kubernetes_documents_fit_their_schemas():
    validator = pytest.importorskip("kubernetes_validate")
    documents = [document for group in manifests().values() for document in group]
    assert len(documents) >= 8
    for document in documents:
        validator.validate(document, validator.latest_version(), strict=True)


@pytest.mark.parametrize("directory", [BASE, GPU], ids=["base", "gpu"])
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
def test_what_kustomize_builds_fits_the_schemas(directory):
    yaml = pytest.importorskip("yaml")
    validator = pytest.importorskip("kubernetes_validate")
    built = subprocess.run(
        ["kubectl", "kustomize", directory], capture_output=True, text=True, timeout=60, check=True
    )
    documents = list(yaml.safe_load_all(built.stdout))
    for document in documents:
        validator.validate(document, validator.latest_version(), strict=True)
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) is (directory == GPU)
    assert container["image"].endswith("-gpu") is (directory == GPU)
    # By processor load, which is not what a GPU pod is short of.
    assert any(d["kind"] == "HorizontalPodAutoscaler" for d in documents) is (directory == BASE)
