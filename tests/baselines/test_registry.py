import subprocess
import sys

import pytest

from moa_tf.baselines.base import BASELINES, get_baseline
from moa_tf.errors import InputError
from moa_tf.models.base import FAMILIES


def test_a_name_that_is_none():
    with pytest.raises(InputError, match=r"--model svm: expected one of prior, ridge, .*, catboost$"):
        get_baseline("svm")


def test_no_name_means_two_things():
    assert not set(BASELINES) & set(FAMILIES)


@pytest.mark.parametrize(("name", "library"), [("xgboost-multi", "xgboost"), ("lightgbm", "lightgbm")])
def test_a_missing_library_is_one_line(name, library, monkeypatch):
    monkeypatch.delitem(sys.modules, BASELINES[name].partition(":")[0], raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError) as error:
        get_baseline(name)
    assert str(error.value) == f"{name}: needs moa-tf[baselines] (pip install 'moa-tf[baselines]')"


def test_nothing_is_imported_before_it_is_asked_for():
    code = (
        "import sys; from moa_tf.baselines.base import get_baseline; "
        "heavy = {'sklearn', 'lightgbm', 'xgboost', 'catboost', 'keras', 'tensorflow', 'pandas'}; "
        "print(sorted(heavy & set(sys.modules))); get_baseline('prior'); print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"


@pytest.mark.parametrize(
    ("name", "changes", "line"),
    [
        ("ridge", {"strengths": (0.0,)}, "strengths=(0.0,): expected one or more, all above 0"),
        ("knn", {"neighbours": ()}, "neighbours=(): expected one or more, all at least 1"),
        ("random-forest", {"mixing": (1.5,)}, "mixing=(1.5,): expected one or more, in [0, 1]"),
        ("lightgbm", {"rounds": (0, 5)}, "rounds=(0, 5): expected one or more, all at least 1"),
        ("catboost", {"row_share": 0.0}, "row_share=0.0: expected in (0, 1]"),
        ("prior", {"inner_folds": 1}, "inner_folds=1: expected at least 2"),
    ],
)
def test_settings_check_themselves(name, changes, line):
    with pytest.raises(InputError) as error:
        get_baseline(name).config.changed(changes)
    assert str(error.value) == line
