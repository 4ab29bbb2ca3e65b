"""What holds for every layer with adapt()."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from moa_tf.errors import InputError
from moa_tf.preprocessing import (
    CorrelationOrder,
    FeatureMap,
    MinMaxScaling,
    MostVariable,
    Norm2Scaling,
    PrincipalComponents,
    QuantileToNormal,
    RowStatistics,
    TimeEncoding,
    VarianceThreshold,
)

MAKE = {
    "quantile": lambda **options: QuantileToNormal(20, **options),
    "components": lambda **options: PrincipalComponents(3, **options),
    "norm2": Norm2Scaling,
    "min-max": MinMaxScaling,
    "variance": VarianceThreshold,
    "most": lambda **options: MostVariable(3, **options),
    "order": CorrelationOrder,
    "time": TimeEncoding,
    "map": lambda **options: FeatureMap(8, "pca", **options),
}
CHOICES = ("variance", "most", "order")
TABLES = [name for name in MAKE if name != "time"]
WITH_WEIGHTS = [name for name in TABLES if name not in CHOICES]
every = pytest.mark.parametrize("name", MAKE)
tables = pytest.mark.parametrize("name", TABLES)


def data(name: str, rows: int = 40, features: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if name == "time":
        return rng.choice([24.0, 48.0, 72.0], rows).astype("float32")
    return rng.normal(1, 2, (rows, features)).astype("float32")


def model_of(layer, name: str) -> keras.Model:
    inputs = keras.Input(data(name).shape[1:])
    return keras.Model(inputs, layer(inputs))


def what_was_learnt(layer) -> list[np.ndarray]:
    return [np.asarray(weight) for weight in layer.weights] + [
        np.asarray(getattr(layer, attribute, 0)) for attribute in ("columns", "times")
    ]


def assert_same(first, second) -> None:
    for ours, theirs in zip(what_was_learnt(first), what_was_learnt(second), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@every
def test_a_call_before_adapt_is_refused_in_one_line(name):
    layer, x = MAKE[name](name="mine"), data(name)
    with pytest.raises(InputError, match=r"^\w+ mine: is used before adapt\(\)") as caught:
        layer(x)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="mine: is used before adapt"):
        tf.function(lambda x: layer.call(x), autograph=False)(x)


@pytest.mark.parametrize("name", ["quantile", "norm2", "min-max", "map"])
def test_a_model_may_be_made_before_adapt_but_not_used(name, tmp_path):
    layer, x = MAKE[name](name="mine"), data(name)
    model = model_of(layer, name)
    for use in (model, lambda x: model.predict(x, verbose=0)):
        with pytest.raises(InputError, match="mine: is used before adapt"):
            use(x)
    model.save(tmp_path / "m.keras")
    unset = keras.saving.load_model(tmp_path / "m.keras")
    with pytest.raises(InputError, match="mine: is used before adapt"):
        unset(x)
    layer.adapt(x)
    alone = MAKE[name]()
    alone.adapt(x)
    np.testing.assert_allclose(model.predict(x, verbose=0), model(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(model(x), alone(x))


@every
@pytest.mark.parametrize("earlier", [False, True])
def test_a_saved_layer_is_adapted_that_of_an_earlier_version_too(name, earlier, tmp_path):
    layer, x = MAKE[name](), data(name)
    layer.adapt(x)
    model = model_of(layer, name)
    path = tmp_path / "m.keras"
    model.save(path)
    if earlier:  # Their configs said nothing about adapt().
        with zipfile.ZipFile(path) as file:
            parts = {part: file.read(part) for part in file.namelist()}
        config = json.loads(parts["config.json"])
        assert config["config"]["layers"][1]["config"].pop("adapted") is True
        parts["config.json"] = json.dumps(config).encode()
        path = tmp_path / "earlier.keras"
        with zipfile.ZipFile(path, "w") as file:
            for part, content in parts.items():
                file.writestr(part, content)
    loaded = keras.saving.load_model(path)
    assert_same(loaded.layers[1], layer)
    np.testing.assert_array_equal(loaded(x), model(x))
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert loaded.layers[1].get_config() == layer.get_config()


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_a_clone_works_once_it_has_the_weights_and_gives_no_number_before(name):
    layer, x = MAKE[name](), data(name)
    layer.adapt(x)
    model = model_of(layer, name)
    clone = keras.models.clone_model(model)
    if name == "map":  # which passes its features on
        with pytest.raises(InputError, match="clone without the weights"):
            _ = clone.layers[1].pixels
    else:
        assert np.isnan(np.asarray(clone(x))).all()
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(x), model(x))
    np.testing.assert_allclose(clone.predict(x, verbose=0), model(x), rtol=1e-5, atol=1e-5)


def test_weights_alone_bring_their_number_of_quantiles(tmp_path):
    # 20 and 30 quantiles lie in as many places, 32.
    layer, x = QuantileToNormal(20), data("quantile")
    layer.adapt(x)
    model = model_of(layer, "quantile")
    model.save_weights(tmp_path / "m.weights.h5")
    other = model_of(QuantileToNormal(30), "quantile")
    other.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(other(x), model(x))


@every
@pytest.mark.parametrize("rows", [40, 15, 300])
def test_a_second_adapt_is_as_the_first(name, rows):
    twice, once = MAKE[name](), MAKE[name]()
    twice.adapt(data(name))
    twice(data(name))
    second = data(name, rows, seed=1) * 2
    twice.adapt(second)
    once.adapt(second)
    assert_same(twice, once)
    np.testing.assert_array_equal(twice(second), once(second))


@tables
@pytest.mark.parametrize("features", [4, 9])
def test_a_second_adapt_may_have_other_features_outside_of_a_model(name, features):
    twice, once = MAKE[name](), MAKE[name]()
    twice.adapt(data(name))
    second = data(name, features=features, seed=1)
    twice.adapt(second)
    once.adapt(second)
    assert_same(twice, once)
    np.testing.assert_array_equal(twice(second), once(second))


@tables
def test_within_a_model_other_features_are_refused_and_change_nothing(name):
    layer, x = MAKE[name](), data(name)
    layer.adapt(x)
    model = model_of(layer, name)
    before, learnt = np.asarray(model(x)), what_was_learnt(layer)
    with pytest.raises(InputError, match=r"is part of a model made for (features=6|columns=)") as caught:
        layer.adapt(data(name, features=7))
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(model(x), before)
    for now, then in zip(what_was_learnt(layer), learnt, strict=True):
        np.testing.assert_array_equal(now, then)
    # The same shape is well: what was traced reads the new weights.
    traced = model.predict(x, verbose=0)
    layer.adapt(x * 3 - 1)
    now = model.predict(x, verbose=0)
    np.testing.assert_allclose(now, model(x), rtol=1e-6, atol=1e-5)
    assert name in ("map", *CHOICES) or np.abs(now - traced).max() > 0.1


def test_a_model_holds_components_and_times_and_traced_quantiles():
    components = PrincipalComponents(5)
    model_of(components, "components")
    with pytest.raises(InputError, match="model made for components=5, and adapt\\(\\) would make them 3"):
        components.adapt(data("components", rows=3))
    quantile = QuantileToNormal(20)
    model_of(quantile, "quantile")
    quantile.adapt(data("quantile", rows=10))
    with pytest.raises(InputError, match="model made for n_quantiles=10, and adapt\\(\\) would make them 20"):
        quantile.adapt(data("quantile"))
    time = TimeEncoding([24.0, 48.0])
    model_of(time, "time")
    time.adapt([48, 24])
    with pytest.raises(InputError, match=r"times=\[24\.0, 48\.0\], and adapt\(\) would make them \[24\.0\]"):
        time.adapt([24])


@every
def test_data_that_cannot_be_learnt_from_is_refused_in_one_line(name):
    x = data(name)
    bad = x.copy()
    bad[3] = np.nan
    bad[5] = np.inf
    count = bad[[3, 5]].size
    place = "row 3" if name == "time" else "row 3, column 0"
    faults = {
        "0 rows, expected at least": x[:0],
        f"{count} values that are not finite, first in {place}; expected finite": bad,
        "data of type <U1, expected numbers": np.full(x.shape, "a"),
        r"data of shape \(\), expected \[N": np.float32(1),
        rf"data of shape \({'40, 1' if name == 'time' else '40,'}\), expected \[N": x[:, None]
        if name == "time"
        else x[:, 0],
        rf"data of shape \({'40, 1, 1' if name == 'time' else '40, 6, 1'}\), expected \[N": x[..., None]
        if x.ndim == 2
        else x[:, None, None],
    }
    for line, unfit in faults.items():
        with pytest.raises(InputError, match=rf"mine: adapt\(\) on {line}") as caught:
            MAKE[name](name="mine").adapt(unfit)
        assert "\n" not in str(caught.value)
    if name != "time":
        with pytest.raises(InputError, match=r"shape \(40, 0\)"):
            MAKE[name]().adapt(x[:, :0])


@tables
def test_another_number_of_features_in_a_call_is_refused(name):
    layer = MAKE[name]()
    layer.adapt(data(name))
    with pytest.raises(ValueError, match="expected axis -1 of input shape to have value 6"):
        layer(data(name, features=7))
    with pytest.raises(ValueError, match="expected axis -1 of input shape to have value 6"):
        layer(data(name, features=1))


@every
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_half_precision_computes_in_float32_and_rounds_at_the_end(name, policy):
    # 1000.4 and 1001.6 are one value in half precision, and three hundred steps apart in float32.
    x = data(name) if name == "time" else data(name) * 0.3 + 1000
    full, half = MAKE[name](), MAKE[name](dtype=policy)
    full.adapt(x)
    half.adapt(x)
    assert_same(half, full)
    result = half(x)
    assert (
        keras.backend.standardize_dtype(result.dtype) == half.compute_dtype == policy.removeprefix("mixed_")
    )
    expected = tf.cast(full(x), half.compute_dtype)
    np.testing.assert_array_equal(tf.cast(result, "float32"), tf.cast(expected, "float32"))
    model = model_of(half, name)
    assert model.output.dtype == half.compute_dtype
    np.testing.assert_allclose(
        model.predict(x, verbose=0).astype("float32"), tf.cast(result, "float32"), rtol=1e-2
    )


@tables
@pytest.mark.parametrize("kind", ["float16", "float64", "int32", "bfloat16 tensor"])
def test_adapt_takes_numbers_of_any_type(name, kind):
    x = np.round(data(name) * 4)
    full, other = MAKE[name](), MAKE[name]()
    full.adapt(x)
    other.adapt(tf.cast(x, "bfloat16") if "tensor" in kind else x.astype(kind))
    for ours, theirs in zip(what_was_learnt(full), what_was_learnt(other), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(full(x), other(x.astype("int32")), rtol=1e-4, atol=1e-3)


JAX = """
import sys, json
import keras, jax, numpy as np
from moa_tf.errors import InputError
from moa_tf.preprocessing import *
assert keras.backend.backend() == "jax"
values = np.load(sys.argv[1])
x = values["x"]
for name, make in dict(
    quantile=lambda: QuantileToNormal(20), components=lambda: PrincipalComponents(3), norm2=Norm2Scaling,
    **{"min-max": MinMaxScaling, "variance": VarianceThreshold},
    most=lambda: MostVariable(3), order=CorrelationOrder,
).items():
    layer = make()
    try:
        layer(x)
    except InputError:
        pass
    else:
        raise AssertionError(name)
    layer.adapt(x * 2)
    layer.adapt(x)
    np.testing.assert_allclose(layer(x), values[name], rtol=1e-4, atol=1e-5, err_msg=name)
    call = jax.jit(lambda state, x: layer.stateless_call([], state, x)[0])
    state = [variable.value for variable in layer.non_trainable_variables]
    np.testing.assert_allclose(call(state, x), values[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert call(state, x[:0]).shape == (0, values[name].shape[1])
statistics = jax.jit(lambda x: RowStatistics()(x))
# Of 975 equal values XLA's mean is not always that value, and the mean of what is left not always that either.
constant = np.random.default_rng(0).uniform(1, 2, (200, 1)).astype("float32")
for features in (2, 100, 975):
    np.testing.assert_array_equal(statistics(np.repeat(constant, features, axis=1))[:, 1:], np.zeros((200, 3)))
np.testing.assert_allclose(statistics(x * np.float32(1e20)), values["statistics"], rtol=1e-4)
image = FeatureImage([[0, 0], [1, 1], [1, 1], [2, 0], [0, 2], [2, 2]], 3)
assert jax.jit(image)(x).shape == (len(x), 3, 3, 3) and jax.jit(image)(x[:0]).shape == (0, 3, 3, 3)
assert SwapNoise(1.0, 1.0, seed=1)(x[:0], training=True).shape == (0, 6)
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_on_jax(tmp_path):
    x = data("quantile")
    values = {"x": x, "statistics": RowStatistics()(x * np.float32(1e20))}
    for name in ("quantile", "components", "norm2", "min-max", *CHOICES):
        layer = MAKE[name]()
        layer.adapt(x)
        values[name] = layer(x)
    np.savez(tmp_path / "values.npz", **values)
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", JAX, str(tmp_path / "values.npz")], env=environment, check=True)
