"""The page and what it asks for; in a real browser where there is one."""

import csv
import gzip
import io

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="module")
def table(case_all):
    """The signatures as a CSV table, with a column that nobody needs."""
    part = case_all.signatures
    frame = pd.DataFrame({"sig_id": part.sig_id, "plate": "x"})
    frame["cp_type"] = np.where(part.control, "ctl_vehicle", "trt_cp")
    frame["cp_time"], frame["cp_dose"] = part.cp_time.astype(int), np.array(["D1", "D2"])[part.cp_dose]
    for names, values in ((case_all.spec.genes, part.genes), (case_all.spec.cells, part.cells)):
        frame[list(names)] = values
    return frame


def text(frame):
    return frame.to_csv(index=False).encode()


def test_a_table_is_ranked_as_predicted(server, table, local, case_all):
    for name, body in (
        ("t.csv", text(table)),
        ("t.csv.gz", gzip.compress(text(table))),
        ("T.PARQUET", table.to_parquet(index=False)),
    ):
        answer = server.post(f"/api/models/tiny:rank?name={name}&top=2", data=body)
        assert answer.status_code == 200, answer.text
        rows = answer.json()["rows"]
        assert [row["sig_id"] for row in rows] == [f"s{i}" for i in range(9)]
        assert [row["control"] for row in rows] == case_all.signatures.control.tolist()
        for row, expected in zip(rows, local, strict=True):
            best = [] if row["control"] else np.argsort(-expected, kind="stable")[:2]
            assert [name for name, _ in row["mechanisms"]] == [case_all.targets[i] for i in best]
            np.testing.assert_allclose([p for _, p in row["mechanisms"]], expected[list(best)], atol=1e-6)
    (note,) = server.post("/api/models/tiny:rank?name=t.csv", data=text(table)).json()["notes"]
    assert note == "t.csv: 1 column is not used (plate)"


def test_all_probabilities_as_csv(server, table, local):
    answer = server.post("/api/models/tiny:csv?name=t.csv", data=text(table))
    assert answer.headers["Content-Type"].startswith("text/csv")
    lines = list(csv.reader(io.StringIO(answer.text)))
    assert lines[0] == ["sig_id", "a", "b, inhibitor", "c", "d"]
    np.testing.assert_allclose(np.float32([line[1:] for line in lines[1:]]), local, atol=1e-6)


def test_why_names_the_features_that_count_most(server, table, case_all):
    answer = server.post("/api/models/tiny:explain?name=t.csv&sig_id=s1", data=text(table)).json()
    x = np.abs(np.concatenate([case_all.signatures.genes[1], case_all.signatures.cells[1]]))
    columns = case_all.spec.features
    assert [part["name"] for part in answer["features"]] == [columns[i] for i in np.argsort(-x)]
    np.testing.assert_allclose(
        [part["importance"] for part in answer["features"]], np.sort(x)[::-1] / x.sum(), rtol=1e-5
    )
    x = np.concatenate([case_all.signatures.genes[1], case_all.signatures.cells[1]])
    assert answer["mechanism"] == case_all.targets[x.argmax() % 4]  # as the model of these tests has it
    missing = server.post("/api/models/tiny:explain?name=t.csv&sig_id=nobody", data=text(table))
    assert (missing.status_code, missing.json()["error"]) == (400, "sig_id 'nobody': is not in the table")


def test_faults_are_worded_as_the_commands_word_them(server, table):
    bad = table.drop(columns=["g-1"]).assign(cp_time=[24] * 8 + [-1])
    answer = server.post("/api/models/tiny:rank?name=../../my table.csv", data=text(bad))
    assert answer.status_code == 400
    assert answer.json()["error"].splitlines() == [
        "my_table.csv: column cp_time: 1 not above 0 (row 9, sig_id s8 '-1.0'), expected hours above 0",
        "my_table.csv: column g-1 is missing",
    ]
    for query, message in (
        ("name=t.xlsx", "expected a file whose name ends in .csv"),
        ("top=0", "top=0: expected"),
        ("top=x", "top=x"),
    ):
        answer = server.post(f"/api/models/tiny:rank?{query}", data=text(table))
        assert answer.status_code == 400
        assert message in answer.json()["error"]
    assert server.post("/api/models/none:rank", data=text(table)).status_code == 404
    assert server.post("/api/models/tiny:rank?name=t.parquet", data=b"PAR1junkPAR1").status_code == 400


def test_the_list_of_models(server):
    models = server.get("/api/models").json()["models"]
    assert [(model["name"], model["version"]) for model in models] == [("other", 1), ("tiny", 2)]
    assert models[1]["genes"] == 3
    assert models[1]["targets"] == 4


@pytest.mark.slow
def test_the_page_in_a_browser(server, browser, table, local, case_all, tmp_path):
    context = browser.new_context(accept_downloads=True)
    page, asked, faults = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(server.url)
    page.wait_for_selector("#about:not(:empty)")
    page.select_option("#model", "tiny")
    assert "3 genes (g-…) and 2 cell lines (c-…)" in page.inner_text("#about")
    file = tmp_path / "signatures <b>.csv"
    file.write_bytes(text(table.assign(sig_id=[f"<i>s{i}</i>" for i in range(9)])))
    page.set_input_files("#file", file)
    page.wait_for_selector(".signature")
    assert page.inner_text("#heading") == "9 signatures of signatures <b>.csv, 2 of them controls"
    assert page.evaluate("document.activeElement.id") == "heading"
    cards = page.query_selector_all(".signature")
    assert [card.query_selector("h3").inner_text() for card in cards] == [f"<i>s{i}</i>" for i in range(9)]
    assert [
        card.query_selector(".control") is not None for card in cards
    ] == case_all.signatures.control.tolist()
    first = [row.inner_text().split("\t")[:2] for row in cards[0].query_selector_all("tbody tr")]
    best = np.argsort(-local[0], kind="stable")
    assert [name for name, _ in first] == [case_all.targets[i] for i in best]
    np.testing.assert_allclose([float(p) for _, p in first], local[0][best], atol=1e-3)
    # By keyboard alone: the next button after the heading's is the first signature's.
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Why? <i>s0</i>"
    page.keyboard.press("Enter")
    page.wait_for_selector(".evidence")
    assert page.get_attribute(".why", "aria-expanded") == "true"
    assert "g-" in page.inner_text(".evidence")
    with page.expect_download() as download:
        page.click("#download")
    saved = pd.read_csv(download.value.path())
    np.testing.assert_allclose(saved.iloc[:, 1:], local, atol=1e-6)
    bad = tmp_path / "bad.csv"
    bad.write_bytes(text(table.drop(columns=["g-1", "cp_time"])))
    page.set_input_files("#file", bad)
    page.wait_for_selector("#faults:not([hidden])")
    assert "bad.csv: 2 columns missing: cp_time, g-1" in page.inner_text("#faults")
    assert page.get_attribute("#faults", "role") == "alert"
    assert page.is_hidden("#results")
    assert not faults
    assert {address.split("/")[2] for address in asked if address.startswith("http")} == {
        server.url.split("/")[2]
    }
    context.close()
