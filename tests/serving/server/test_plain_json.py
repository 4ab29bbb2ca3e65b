"""What is read without Python's numbers is what the general way reads."""

import json
import random

import numpy as np
import pytest

from moa_tf.serving.server.errors import Refused
from moa_tf.serving.server.plain_json import read_plain
from moa_tf.serving.server.tensors import Input, predict_inputs, read_json

INPUTS = {
    "cp_dose": Input((), "string"),
    "cp_time": Input((), "float32"),
    "genes": Input((3,), "float32"),
}
ROWS = [
    {"cp_dose": "D1", "cp_time": 24.0, "genes": [0.5, -1, 1e-3]},
    {"genes": [7.123456789, 0, 1e300], "cp_time": 48, "cp_dose": "é"},
]
COLUMNS = {name: [row[name] for row in ROWS] for name in INPUTS}


def inputs_of(name):
    if name != "serving_default":
        raise Refused(3, name)
    return INPUTS


def generally(body):
    asked = read_json(body)
    name = asked.get("signature_name") or "serving_default"
    if not isinstance(name, str):
        raise Refused(3, "name")
    return name, *predict_inputs(asked, inputs_of(name))


def same(one, other):
    return (
        (one[0], one[2]) == (other[0], other[2])
        and one[1].keys() == other[1].keys()
        and all(
            np.array_equal(one[1][name], other[1][name]) and one[1][name].dtype == other[1][name].dtype
            for name in INPUTS
        )
    )


BODIES = [
    json.dumps(body, ensure_ascii=False).encode()
    for body in (
        {"instances": ROWS},
        {"inputs": COLUMNS},
        {"signature_name": "serving_default", "inputs": COLUMNS},
        {"signature_name": "", "instances": ROWS},
    )
]


@pytest.mark.parametrize("body", BODIES)
def test_plain_bodies_are_read_so(body):
    plain = read_plain(body, "serving_default", inputs_of)
    assert plain is not None
    assert same(plain, generally(body))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b'{"instances": []}',
        b'{"instances": 1}',
        b'{"inputs": {}}',
        b"\xef\xbb\xbf" + BODIES[0],
        BODIES[0].replace(b"[0.5, -1, 0.001]", b"[0.5, [-1, 0.001], []]"),
        BODIES[0].replace(b"24.0", b"true"),
        BODIES[0].replace(b"24.0", b"NaN"),
        BODIES[0].replace(b'"D1"', b'{"b64": "RDE="}'),
        BODIES[0].replace(b'"cp_dose": "D1"', b'"genes": "D1"'),
        BODIES[1].replace(b"1e+300", b"1" + b"0" * 30),
    ],
)
def test_others_are_left_to_the_general_way(body):
    assert read_plain(body, "serving_default", inputs_of) is None


def test_spoiled_bodies_are_read_as_the_general_way_does_or_left_to_it():
    draw = random.Random(0)
    parts = [
        *'[]{},:"0123456789.eE-+ \\\n',
        "null",
        "true",
        "NaN",
        "[]",
        "[1]",
        '"genes":',
        "é",
        "\ud800",
        "\0",
    ]
    parts = [part.encode("utf-8", "surrogatepass") for part in parts]
    plain = 0
    for _ in range(60_000):
        body = bytearray(draw.choice(BODIES))
        for _ in range(draw.randint(1, 3)):
            at, cut = draw.randrange(len(body) + 1), draw.choice([0, 0, 1, 5])
            body[at : at + cut] = draw.choice([b"", *parts])
        try:
            read = read_plain(bytes(body), "serving_default", inputs_of)
        except Refused:
            read = None
            with pytest.raises(Refused):
                generally(bytes(body))
        if read is not None:
            plain += 1
            assert same(read, generally(bytes(body))), body
    assert plain > 1000
