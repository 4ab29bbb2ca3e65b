import dataclasses
import json

import keras
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from moa_tf.cli.explain import explain as explain_command
from moa_tf.data.schema import DOSES, TYPES, Signatures, SignatureSpec
from moa_tf.ensemble.ensemble import Ensemble
from moa_tf.errors import InputError
from moa_tf.explanation.importance import ImportanceSums, explain_table, mechanism_table, overall_table
from moa_tf.explanation.symbols import read_gene_names
from moa_tf.models.base import Member, importance_columns
from moa_tf.models.integrated_gradients import fit_baseline
from moa_tf.models.tabnet import TabNetConfig, build, fit_preprocessing
from moa_tf.models.tabnet.masks import column_shares, ensemble_explainer, explainer
from moa_tf.serving.export import export

ROWS, TARGETS = 40, ("kinase_inhibitor", "agonist", "toxin")
SPEC = SignatureSpec(tuple(f"g-{i}" for i in range(7)), ("c-0", "c-1"))
SETTINGS = {"n_d": 4, "n_a": 4, "n_steps": 2, "virtual_batch_size": 8}


@pytest.fixture(scope="module")
def signatures():
    generator = np.random.default_rng(0)
    genes = generator.normal(size=(ROWS, 7)).astype("float32")
    genes[:, 3] = 1.0  # does not vary, so preprocessing drops it
    return Signatures(
        SPEC,
        np.array([f"id_{i}" for i in range(ROWS)], object),
        genes,
        generator.normal(size=(ROWS, 2)).astype("float32"),
        (np.arange(ROWS) % 5 == 0).astype("int32"),
        np.tile(np.array([24, 48], "float32"), ROWS // 2),
        generator.integers(0, 2, ROWS).astype("int32"),
    )


@pytest.fixture(scope="module")
def members(signatures):
    plain = TabNetConfig(gene_components=2, row_statistics=True, **SETTINGS)
    embedded = TabNetConfig(embed_treatment=True, embedding_dim=3, **SETTINGS)
    result = []
    for config in (plain, embedded):
        preprocessing = fit_preprocessing(signatures, config, 0)
        result.append(Member(preprocessing, [build(preprocessing, config, np.full(3, 0.2), 1)]))
    return result


def test_shares_of_each_kind_of_feature(members):
    preprocessing, (network,), _ = members[0]
    shares = column_shares(preprocessing, network)
    # 6 genes, 2 cells, 2 gene components, 4 + 4 statistics, 2 times, 2 doses; 7 + 2 + 2 columns
    assert shares.shape == (22, 11)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-6)
    assert np.argmax(shares[:8], axis=1).tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    loadings = np.array(preprocessing.get_layer("genes_components").kernel)
    np.testing.assert_allclose(shares[8, [0, 1, 2, 4, 5, 6]], loadings[:, 0] ** 2, rtol=1e-5)
    np.testing.assert_allclose(shares[10, :7], [1 / 6, 1 / 6, 1 / 6, 0, 1 / 6, 1 / 6, 1 / 6], rtol=1e-6)
    np.testing.assert_allclose(shares[14], [0] * 7 + [0.5, 0.5, 0, 0], rtol=1e-6)
    assert np.argmax(shares[18:], axis=1).tolist() == [9, 9, 10, 10]


def test_embedded_treatment_counts_for_its_column(members):
    preprocessing, (network,), _ = members[1]
    shares = column_shares(preprocessing, network)
    assert shares.shape == (6 + 2 + 6, 11)
    assert np.argmax(shares[8:], axis=1).tolist() == [9, 9, 9, 10, 10, 10]


def test_a_kind_that_is_not_read_keeps_its_columns(signatures):
    """Cells that do not vary: their columns lie between the genes and the treatment, and have no importance."""
    flat = dataclasses.replace(signatures, cells=np.ones_like(signatures.cells))
    config = TabNetConfig(**SETTINGS)
    preprocessing = fit_preprocessing(flat, config, 0)
    assert "cells" not in preprocessing.input
    network = build(preprocessing, config, np.full(3, 0.2), 1)
    explain = ensemble_explainer([Member(preprocessing, [network], fit_baseline(flat))])
    importance = np.array(explain(flat.inputs())["importance"])
    assert importance.shape == (ROWS, len(importance_columns(SPEC)))
    assert (importance[:, 7:9] == 0).all()
    assert (importance[:, 9:].sum(1) > 0).any()
    np.testing.assert_allclose(importance.sum(1), 1.0, rtol=1e-4)


def test_importance_is_a_share_and_survives_saving(members, signatures, tmp_path):
    preprocessing, (network,), _ = members[0]
    inputs = signatures.inputs()
    features = preprocessing({name: inputs[name] for name in preprocessing.input})
    importance = np.array(explainer(preprocessing, network)(features)["importance"])
    assert importance.shape == (ROWS, 11)
    assert (importance >= 0).all()
    np.testing.assert_allclose(importance.sum(axis=1), 1.0, rtol=1e-5)
    assert (importance[:, 3] == 0).all()
    network.save(tmp_path / "network.keras")
    preprocessing.save(tmp_path / "preprocessing.keras")
    loaded = [keras.saving.load_model(tmp_path / f"{n}.keras") for n in ("preprocessing", "network")]
    np.testing.assert_allclose(explainer(*loaded)(features)["importance"], importance, atol=1e-6)


def test_sums_by_hand():
    sums = ImportanceSums.empty(("a", "b"), ("t", "u"))
    sums.add([[1.0, 0.0]], [[0.5, 0.0]])
    sums.add([[0.2, 0.8]], [[0.5, 1.0]])
    np.testing.assert_allclose(sums.overall, [0.6, 0.4])
    np.testing.assert_allclose(sums.by_target, [[0.6, 0.4], [0.2, 0.8]])
    assert overall_table(sums)["feature"].tolist() == ["a", "b"]
    table = mechanism_table(sums, top=1, names={"b": "TP53"})
    assert table[table["mechanism"] == "u"].iloc[0][["name", "rank"]].tolist() == ["TP53", 1]
    assert table["excess"].tolist() == pytest.approx([0.0, 0.4])


def test_pieces_give_what_the_whole_gives(members, signatures, tmp_path):
    function = ensemble_explainer(members)

    def explain(part):
        outputs = function(part.inputs())
        return np.array(outputs["importance"]), np.array(outputs["probabilities"])

    columns = importance_columns(SPEC)
    pieces = [signatures.take(np.arange(i, min(i + 16, ROWS))) for i in range(0, ROWS, 16)]
    results = [
        explain_table(explain, parts, columns, TARGETS, tmp_path / "out.parquet", top=3)
        for parts in ([signatures], pieces)
    ]
    np.testing.assert_allclose(results[0].by_target, results[1].by_target, rtol=1e-5)
    np.testing.assert_allclose(results[0].overall, results[1].overall, rtol=1e-5)
    importance, probabilities = explain(signatures)
    treated = ~signatures.control
    expected = probabilities[treated].sum(axis=0)
    np.testing.assert_allclose(results[0].weights, expected, rtol=1e-5)
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert len(table) == 3 * ROWS
    row = table[(table["sig_id"] == "id_17") & (table["rank"] == 1)].iloc[0]
    assert row["feature"] == columns[int(importance[17].argmax())]
    assert row["importance"] == pytest.approx(importance[17].max(), rel=1e-5)


def test_a_model_that_ignores_the_treatment_gives_it_no_importance(signatures, tmp_path):
    config = TabNetConfig(treatment=False, **SETTINGS)
    preprocessing = fit_preprocessing(signatures, config, 0)
    function = ensemble_explainer([Member(preprocessing, [build(preprocessing, config, np.full(3, 0.2), 1)])])

    def explain(part):
        outputs = function({name: part.inputs()[name] for name in preprocessing.input})
        return np.array(outputs["importance"]), np.array(outputs["probabilities"])

    out = tmp_path / "out.parquet"
    sums = explain_table(explain, [signatures], importance_columns(SPEC), TARGETS, out)
    assert sums.overall[-2:].tolist() == [0.0, 0.0]
    assert sums.overall.sum() == pytest.approx(1.0, rel=1e-4)


def write_features(signatures, path):
    table = pd.DataFrame(
        {
            "sig_id": signatures.sig_id,
            "cp_type": np.array(TYPES)[signatures.cp_type],
            "cp_time": signatures.cp_time.astype(int),
            "cp_dose": np.array(DOSES)[signatures.cp_dose],
        }
    )
    table[list(SPEC.genes)], table[list(SPEC.cells)] = signatures.genes, signatures.cells
    table.to_csv(path, index=False)


@pytest.mark.slow
def test_command_explains_an_exported_model(members, signatures, tmp_path):
    function = ensemble_explainer(members)
    metadata = {"model": "tabnet", "simulated": True}
    export(
        Ensemble.of(members),
        tmp_path / "model",
        spec=SPEC,
        target_names=TARGETS,
        metadata=metadata,
        explainer=function,
    )
    write_features(signatures, tmp_path / "features.csv")
    (tmp_path / "genes.csv").write_text("old,new\n16,g-0\n23,g-1\n", encoding="utf-8")
    arguments = [
        "model",
        "features.csv",
        "out",
        "--json",
        "figures.json",
        "--genes",
        "genes.csv",
        "--top",
        "4",
    ]
    paths = [str(tmp_path / a) if "." in a or a in ("model", "out") else a for a in arguments]
    result = CliRunner().invoke(explain_command, paths, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["importance.csv", "mechanisms.csv", "mechanisms.png", "signatures.parquet"]
    overall = pd.read_csv(tmp_path / "out" / "importance.csv").set_index("feature")
    assert overall.loc["g-1", "name"] == "ABCF1"  # a landmark gene, by the table of the package
    assert overall.loc["g-2", "name"] == "g-2"
    expected = np.array(function(signatures.inputs())["importance"]).mean(axis=0)
    np.testing.assert_allclose(
        overall["importance"].reindex(list(importance_columns(SPEC))), expected, rtol=1e-4, atol=1e-6
    )
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["signatures"] == ROWS
    with pytest.raises(InputError, match="is there already"):
        CliRunner().invoke(explain_command, paths, catch_exceptions=False)


def test_gene_names_prefer_symbols_and_refuse_other_tables(tmp_path):
    path = tmp_path / "genes.csv"
    path.write_text("entrez_id,symbol,column\n16,AARS1,g-0\n1277,,g-1\n1,,g-2\n,,g-3\n", encoding="utf-8")
    assert read_gene_names(path) == {"g-0": "AARS1", "g-1": "COL1A1", "g-2": "Entrez:1"}
    path.write_text("old,new\n1277,g-16\n7157,g-1\n1,g-2\n", encoding="utf-8")
    assert read_gene_names(path) == {"g-16": "COL1A1", "g-1": "TP53", "g-2": "Entrez:1"}
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="expected new, and old"):
        read_gene_names(path)
    path.write_text("old,new\n1,g-0\n2,g-0\n", encoding="utf-8")
    with pytest.raises(InputError, match="g-0 is there twice"):
        read_gene_names(path)
