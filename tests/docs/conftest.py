"""Small tables under the names that the documents use, simulated."""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
MOA_TF = Path(sys.executable).with_name("moa-tf")
DOSES = ("0.04", "0.37", "3.33", "10.0")
GENES = 60


def compounds():
    """The tutorial's own table of mechanisms, out of the block that writes it."""
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    table = re.search(r"^(pert_iname,moa\n.*?)^EOF$", text, re.MULTILINE | re.DOTALL)[1]
    return table, {row["pert_iname"]: row["moa"] for row in csv.DictReader(table.splitlines())}


def write_plate(path, mechanisms):
    """A plate as GCTX: each drug at each dose with the sum of its mechanisms' patterns, unknown ones and controls."""
    generator = np.random.default_rng(0)
    names = sorted({name for several in mechanisms.values() for name in several.split("|")})
    pattern = {name: generator.normal(size=GENES) for name in names}
    wells = [
        (drug, dose, 2 * (DOSES.index(dose) + 1) / len(DOSES) * sum(pattern[name] for name in moa.split("|")))
        for drug, moa in [*mechanisms.items(), ("HG-5-113-01", names[0]), ("WZ-3105", names[1])]
        for dose in DOSES
    ] + [("DMSO", "-666", np.zeros(GENES))] * 50
    values = np.array([effect for *_, effect in wells]) + generator.normal(size=(len(wells), GENES))
    landmarks = pd.read_csv(ROOT / "moa_tf" / "data" / "landmarks.csv", dtype=str).head(GENES)
    control = [drug == "DMSO" for drug, *_ in wells]
    fields = {
        "id": [f"LJP005_A375_24H_X1_B19:{number}" for number in range(len(wells))],
        "pert_id": [
            drug if is_control else f"BRD-{drug}"
            for (drug, *_), is_control in zip(wells, control, strict=True)
        ],
        "pert_iname": [drug for drug, *_ in wells],
        "pert_type": ["ctl_vehicle" if each else "trt_cp" for each in control],
        "pert_idose": ["-666" if dose == "-666" else f"{dose} um" for _, dose, _ in wells],
        "pert_itime": ["24 h"] * len(wells),
        "cell_id": ["A375"] * len(wells),
        "det_plate": ["LJP005_A375_24H_X1_B19"] * len(wells),
    }
    with h5py.File(path, "w") as file:
        file.attrs["version"] = np.bytes_("GCTX1.0")
        file["0/DATA/0/matrix"] = values.astype("f4")
        file["0/META/ROW/id"] = landmarks["entrez_id"].to_numpy().astype("S")
        file["0/META/ROW/pr_gene_symbol"] = landmarks["symbol"].to_numpy().astype("S")
        for name, of in fields.items():
            file[f"0/META/COL/{name}"] = np.array(of, "S")


def write_viability(data, out):
    """Viability alone, a row a drug, with gaps and scaffolds, as NCI-60 has them."""
    out.mkdir()
    features, targets, drugs = (
        pd.read_csv(data / f"{name}.csv") for name in ("train_features", "train_targets_scored", "train_drug")
    )
    kept = ((features["cp_type"] == "trt_cp") & ~drugs["drug_id"].duplicated()).to_numpy()
    cells = features.loc[kept, ["sig_id", *(name for name in features if name.startswith("c-"))]]
    values = cells.iloc[:, 1:].to_numpy(copy=True)
    values[np.random.default_rng(0).random(values.shape) < 0.04] = np.nan
    cells.iloc[:, 1:] = values
    cells.to_csv(out / "train_features.csv", index=False)
    targets[kept].to_csv(out / "train_targets_scored.csv", index=False)
    scaffold = [f"ring {number % 15}" for number in range(kept.sum())]
    drugs[kept].assign(scaffold=scaffold).to_csv(out / "train_drug.csv", index=False)


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory):
    """A directory with every table that the documents name."""
    home = tmp_path_factory.mktemp("documents")

    def call(*arguments):
        subprocess.run([MOA_TF, *arguments], cwd=home, check=True, capture_output=True)

    call("data", "simulate", "lish-moa", "--signatures", "300")
    call("data", "simulate", "larger", "--signatures", "900")
    data = home / "lish-moa"
    write_viability(home / "larger", home / "nci60")
    shutil.rmtree(home / "larger")
    table, mechanisms = compounds()
    (home / "compounds.csv").write_text(table)
    write_plate(home / "plate.gctx", mechanisms)
    call("data", "convert", "plate.gctx", "plate", "--compounds", "compounds.csv", "--min-drugs", "2")
    compoundinfo = pd.read_csv(home / "compounds.csv").rename(columns={"pert_iname": "cmap_name"})
    compoundinfo.to_csv(home / "compoundinfo_beta.txt", sep="\t", index=False)
    # The README's screen: rows of known drugs' kind, and what they turn out to be.
    shutil.copy(data / "test_features.csv", home / "plate.csv")
    ids = pd.read_csv(data / "test_features.csv", usecols=["sig_id"])["sig_id"]
    pd.DataFrame({"sig_id": ids, "drug_id": [f"drug {n // 6}" for n in range(len(ids))]}).to_csv(
        home / "plate_drugs.csv", index=False
    )
    truth = pd.read_csv(data / "sample_submission.csv")
    truth.iloc[:, 1:] = (np.random.default_rng(0).random(truth.iloc[:, 1:].shape) < 0.1).astype(int)
    truth.to_csv(home / "truth.csv", index=False)
    return home
