import numpy as np
import pandas as pd
import pytest

from moa_tf.data.conversion.convert import Options, convert
from moa_tf.data.conversion.labels import name_mechanism, shorten_id, split_mechanisms

ONE, TWO, THREE = "BRD-K00000001", "BRD-K00000002", "BRD-K00000003"


def table(out, name):
    path = out / f"{name}.parquet"
    return pd.read_parquet(path) if path.exists() else None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("HDAC inhibitor", "hdac_inhibitor"),
        ("  Na/K-ATPase inhibitor ", "na_k-atpase_inhibitor"),
        ("11-beta-HSD1 inhibitor", "11-beta-hsd1_inhibitor"),
        ("T-type calcium channel blocker", "t-type_calcium_channel_blocker"),
        ("DNA - inhibitor (p53)", "dna_-_inhibitor_p53"),
    ],
)
def test_names_of_mechanisms(text, name):
    assert name_mechanism(text) == name


def test_splitting_and_ids():
    assert split_mechanisms("EGFR inhibitor|HER2 inhibitor") == ("egfr_inhibitor", "her2_inhibitor")
    assert split_mechanisms("EGFR inhibitor, HER2 inhibitor|EGFR inhibitor") == (
        "egfr_inhibitor",
        "her2_inhibitor",
    )
    assert split_mechanisms("1,4-X blocker| ") == ("1_4-x_blocker",)
    assert shorten_id("BRD-K02708799-001-02-2") == "BRD-K02708799"
    assert shorten_id("BRD-K02708799") == "BRD-K02708799"
    assert shorten_id("DMSO") == "DMSO"


def test_compoundinfo_by_id(plate, tmp_path):
    """Drug 1 has two rows, of which one lacks the mechanism; drug 3 has none, so it is no negative."""
    compounds = tmp_path / "compoundinfo_beta.txt"
    compounds.write_text(
        "pert_id\tcmap_name\ttarget\tmoa\tcanonical_smiles\n"
        f"{ONE}\tone\tX\tEGFR inhibitor\tCC\n"
        f"{ONE}\tone\tY\tHER2 inhibitor|EGFR inhibitor\tCC\n"
        f"{ONE}\tone\tZ\t\tCC\n"
        f"{TWO}\ttwo\tX\tEGFR inhibitor\t\n"
        f"{THREE}\tthree\tX\t-666\tCCC\n"
    )
    figures = convert(plate.gctx(tmp_path / "a.gctx"), tmp_path / "out", Options(compounds=compounds))
    labels = table(tmp_path / "out", "train_targets_scored").set_index("sig_id")
    assert list(labels) == ["egfr_inhibitor", "her2_inhibitor"]
    assert labels.T.to_dict("list") == {"p:A01": [0, 0], "p:A02": [1, 1], "p:A03": [1, 1], "p:A04": [1, 0]}
    train, test = table(tmp_path / "out", "train_features"), table(tmp_path / "out", "test_features")
    assert train["sig_id"].tolist() == ["p:A01", "p:A02", "p:A03", "p:A04"]
    assert test["sig_id"].tolist() == ["p:A05"]
    drugs = table(tmp_path / "out", "train_drug")
    assert drugs["drug_id"].tolist() == ["DMSO", ONE, ONE, TWO]
    assert drugs["smiles"].fillna("").tolist() == ["", "CC", "CC", ""]
    assert table(tmp_path / "out", "test_drug")["drug_id"].tolist() == [THREE]
    assert figures["train"] == {"treated": 3, "controls": 1}
    assert figures["drugs"] == {"train": 2, "test": 1}
    assert figures["dropped"] == {"features": 0, "mechanisms": 0}


def test_a_mechanism_of_too_few_drugs_goes_and_its_drug_stays(plate, tmp_path):
    compounds = tmp_path / "c.csv"
    compounds.write_text(f'broad_id,moa\n{ONE}-001-01-1,A\n{TWO}-001-01-1,"A, C"\n{THREE}-001-01-1,B\n')
    options = Options(compounds=compounds, min_drugs=2)
    figures = convert(plate.gctx(tmp_path / "a.gctx"), tmp_path / "out", options)
    labels = table(tmp_path / "out", "train_targets_scored").set_index("sig_id")
    assert labels.T.to_dict("list") == {"p:A01": [0], "p:A02": [1], "p:A03": [1], "p:A04": [1], "p:A05": [0]}
    assert list(labels) == ["a"]
    assert figures["dropped"]["mechanisms"] == 2
    assert table(tmp_path / "out", "test_features") is None


def test_the_hub_by_name(plate, tmp_path):
    """Comment lines, quotes where there is a comma, and the name's case."""
    hub = tmp_path / "repurposing_drugs.txt"
    hub.write_text(
        "!Drug Repurposing Hub\r\n!Version:\t3/24/2020\r\n"
        "pert_iname\tclinical_phase\tmoa\ttarget\r\n"
        'One\tLaunched\t"A inhibitor, B agonist"\tX\r\n'
        "three\tPreclinical\t\tX\r\n"
    )
    fields = {name: values for name, values in plate.fields.items() if name != "pert_id"}
    source = plate.gct13(tmp_path / "a.gct", fields=fields)
    convert(source, tmp_path / "out", Options(compounds=hub))
    labels = table(tmp_path / "out", "train_targets_scored").set_index("sig_id")
    assert labels.T.to_dict("list") == {"p:A01": [0, 0], "p:A02": [1, 1], "p:A03": [1, 1]}
    assert list(labels) == ["a_inhibitor", "b_agonist"]
    assert table(tmp_path / "out", "train_drug")["drug_id"].tolist() == ["DMSO", "one", "one"]


def test_the_files_own_mechanisms_are_one_for_all_rows_of_a_drug(plate, tmp_path):
    fields = plate.fields | {"moa": ["-666", "A", "", "B|C", "NA"]}
    convert(plate.gctx(tmp_path / "a.gctx", fields=fields), tmp_path / "out")
    labels = table(tmp_path / "out", "train_targets_scored").set_index("sig_id")
    assert labels.T.to_dict("list") == {
        "p:A01": [0, 0, 0], "p:A02": [1, 0, 0], "p:A03": [1, 0, 0], "p:A04": [0, 1, 1],
    }  # fmt: skip
    assert table(tmp_path / "out", "test_features")["sig_id"].tolist() == ["p:A05"]


def test_without_mechanisms_all_is_to_be_predicted_and_that_is_said(plate, tmp_path):
    told = []
    figures = convert(plate.gctx(tmp_path / "a.gctx"), tmp_path / "out", tell=told.append)
    assert any("all signatures go to test_features" in line for line in told)
    assert figures["train"] == {"treated": 0, "controls": 0}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "conversion.json", "test_drug.parquet", "test_features.parquet",
    ]  # fmt: skip


def test_a_drug_without_id_and_name_is_one_by_itself(plate, tmp_path):
    fields = plate.fields | {"pert_id": ["-666", "-666", "-666", TWO, THREE]}
    fields["pert_iname"] = ["-666", "-666", "one", "two", "three"]
    told = []
    convert(plate.gctx(tmp_path / "a.gctx", fields=fields), tmp_path / "out", tell=told.append)
    assert table(tmp_path / "out", "test_drug")["drug_id"].tolist() == ["control", "p:A02", "one", TWO, THREE]
    assert any(line.startswith("1 treated signatures have neither") for line in told)


def test_signatures_types_and_quality(plate, tmp_path):
    """Rows of a table in another order, with one more; controls are not judged by their quality."""
    rows = [
        f"{name}\t{kind}\t{hiq}\t{tas}\t{name[-1]}.0\tuM\n"
        for name, kind, hiq, tas in zip(
            ["x", *plate.signatures[::-1]],
            ["trt_cp", *plate.fields["pert_type"][::-1]],
            [1, 1, 1, 0, 1, 0],
            [0.9, 0.3, "NaN", 0.9, 0.2, 0.0],
            strict=True,
        )
    ]
    siginfo = tmp_path / "siginfo_beta.txt"
    siginfo.write_text("sig_id\tpert_type\tis_hiq\ttas\tpert_dose\tpert_dose_unit\n" + "".join(rows))
    source = plate.gctx(tmp_path / "a.gctx", fields={})
    told = []
    convert(source, tmp_path / "all", Options(signatures=siginfo), told.append)
    every = table(tmp_path / "all", "test_features")
    assert every["sig_id"].tolist() == plate.signatures
    np.testing.assert_array_equal(every["cp_dose"], [1, 2, 3, 4, 5])
    assert f"{siginfo}: 1 of 6 rows are of no signature of a.gctx" in told
    options = Options(signatures=siginfo, quality=("is_hiq", "tas>0.2"), types=("trt_cp", "ctl_vehicle"))
    figures = convert(source, tmp_path / "some", options)
    # A02 has tas 0.2, A03 is not of high quality, A04 is trt_poscon.
    assert table(tmp_path / "some", "test_features")["sig_id"].tolist() == ["p:A01", "p:A05"]
    assert figures["dropped"] == {
        "--types": 1, "--quality is_hiq": 1, "--quality tas>0.2": 1, "features": 0, "mechanisms": 0,
    }  # fmt: skip


def test_genes_by_table_and_landmarks(plate, tmp_path):
    genes = tmp_path / "geneinfo.txt"
    genes.write_text(
        "gene_id\tgene_symbol\tfeature_space\n16\tAARS1\tlandmark\n1277\tX\tlandmark\n7157\tX\tinferred\n"
    )
    source, told = plate.gctx(tmp_path / "a.gctx"), []
    convert(source, tmp_path / "1", Options(genes=genes), told.append)
    names = [name for name in table(tmp_path / "1", "test_features") if name.startswith("g-")]
    # Genes that share a symbol keep their id; the one that is not in the table has its own symbol, which is none.
    assert names == ["g-AARS1", "g-X:1277", "g-X:7157", "g-1"]
    assert "--genes has no row for 1 of 4 genes (1)" in told
    figures = convert(source, tmp_path / "2", Options(genes=genes, landmarks=True))
    read = table(tmp_path / "2", "test_features")
    assert [name for name in read if name.startswith("g-")] == ["g-AARS1", "g-X"]
    np.testing.assert_array_equal(read["g-X"], plate.values[:, 1].astype(np.float32))
    assert figures["dropped"]["features"] == 2
    convert(source, tmp_path / "3", Options(landmarks=True))
    names = [name for name in table(tmp_path / "3", "test_features") if name.startswith("g-")]
    assert names == ["g-AARS", "g-COL1A1", "g-TP53"]
