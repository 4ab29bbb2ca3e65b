import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from moa_tf.config import override
from moa_tf.data.schema import Signatures, SignatureSpec
from moa_tf.models.base import Member
from moa_tf.models.deepinsight import FAMILY, PRESETS


@pytest.mark.slow
def test_an_exported_deepinsight_explains_itself_over_its_map(tmp_path):
    pytest.importorskip("tensorflow")
    from moa_tf.cli.explain import explain
    from moa_tf.ensemble.ensemble import Ensemble
    from moa_tf.models.deepinsight.grad_cam import activations, explainer
    from moa_tf.serving.export import export

    rng = np.random.default_rng(0)
    spec = SignatureSpec(tuple(f"g-{i}" for i in range(30)), ("c-0", "c-1"), ("cp_type",))
    values = [rng.normal(size=(9, width)).astype("float32") for width in (30, 2)]
    rows = Signatures(spec, np.array([f"id_{i}" for i in range(9)], object), *values, np.zeros(9, "int32"))
    config = override(PRESETS["small"], ["image_size=32", "embedding=pca"]).architecture
    preprocessing = FAMILY.fit_preprocessing(rows, config, 0)
    network = FAMILY.build(preprocessing, config, np.full(3, 0.2), 0)
    network.get_layer("logits").kernel.assign(rng.normal(size=network.get_layer("logits").kernel.shape))
    members = [Member(preprocessing, [network])]
    version = export(
        Ensemble.of(members), tmp_path / "exported", spec=spec, target_names=["a", "b", "c"],
        metadata={"model": "deepinsight"}, explainer=explainer(members),
    )  # fmt: skip
    table = pd.DataFrame(np.concatenate(values, axis=1), columns=spec.features)
    table.insert(0, "sig_id", rows.sig_id)
    table["cp_type"] = "trt_cp"
    table.to_csv(tmp_path / "features.csv", index=False)
    labels = pd.DataFrame({"sig_id": rows.sig_id, "a": np.arange(9) % 2, "b": np.arange(9) > 5, "c": 0})
    labels.astype({"b": int}).to_csv(tmp_path / "targets.csv", index=False)
    arguments = [str(version), str(tmp_path / "features.csv"), str(tmp_path / "out"), "--top", "4"]
    arguments += ["--compare", "a", "b", "--targets", str(tmp_path / "targets.csv")]
    result = CliRunner().invoke(explain, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output

    activation, targets = activations(explainer(members), rows.inputs())
    share = activation / activation.sum(axis=1, keepdims=True)
    importance = pd.read_csv(tmp_path / "out" / "importance.csv").set_index("feature").importance
    np.testing.assert_allclose(importance[list(spec.features)], share.mean(0), rtol=1e-3, atol=1e-6)
    mechanisms = pd.read_csv(tmp_path / "out" / "mechanisms.csv")
    chosen = mechanisms[mechanisms.mechanism == "abc"[targets[0]]].iloc[0]
    mean = share[targets == targets[0]].mean(0)
    np.testing.assert_allclose(chosen.importance, mean[spec.features.index(chosen.feature)], rtol=1e-3)
    for name in ("activation_maps", "feature_map", "mean_images"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
