import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from moa_tf.config import Recipe
from moa_tf.errors import InputError
from moa_tf.training.optimizers import FusedAdam, OneCycle, make_learning_rate, make_optimizer

FIXTURES = Path(__file__).parent / "fixtures"


def network(policy="float32"):
    keras.backend.clear_session()  # so that layers, and the optimiser's state by them, are named alike
    keras.utils.set_random_seed(5)
    layers = [keras.Input((6,)), keras.layers.Dense(9, "tanh", dtype=policy), keras.layers.Dense(3)]
    return keras.Sequential(layers)


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 6)).astype("float32"), rng.normal(size=(32, 3)).astype("float32")


def train(optimizer, steps=20, policy="float32"):
    model = network(policy)
    model.compile(optimizer, "mse")
    x, y = data()
    for _ in range(steps):
        model.train_on_batch(x, y)
    return model


def keras_adamw(**kwargs):
    optimizer = keras.optimizers.AdamW(**kwargs)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"global_clipnorm": 0.1},
        {"use_ema": True, "ema_momentum": 0.9},
        {"gradient_accumulation_steps": 2},
        {"beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-3},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_equals_keras_adamw(options):
    fused = train(FusedAdam(2e-3, weight_decay=1.0, **options))
    plain = train(keras_adamw(learning_rate=2e-3, weight_decay=1.0, **options))
    for ours, theirs in zip(fused.optimizer.variables, plain.optimizer.variables, strict=True):
        assert ours.path.split("/")[1:] == theirs.path.split("/")[1:]
        # 1 - 0.999 is 1.3e-5 smaller in float32, where the kernel takes it, than in float64, where Keras does.
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=2e-5, atol=1e-6, err_msg=ours.path)
    for ours, theirs in zip(fused.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("decay_all", [False, True])
def test_weight_decay_acts_on_kernels_and_g_alone_unless_on_all(decay_all):
    # No gradient: only decay moves a weight. 1 - 0.1 * 0.5 = 0.95 a step.
    shapes = {"kernel": (1, 1), "g": (1,), "bias": (1,), "gamma": (1,)}
    variables = [keras.Variable(np.full(shape, 2.0), name=name) for name, shape in shapes.items()]
    optimizer = FusedAdam(0.1, weight_decay=0.5, decay_all=decay_all)
    for _ in range(2):
        optimizer.apply([np.zeros(shape, "float32") for shape in shapes.values()], variables)
    values = [variable.numpy().item() for variable in variables]
    decayed = 2 * 0.95**2
    np.testing.assert_allclose(values, [decayed, decayed, *[decayed if decay_all else 2] * 2], rtol=1e-6)


def test_l2_is_added_to_the_gradient():
    # First step of Adam moves by the learning rate in the direction of the gradient: here l2 · w alone.
    kernel, bias = keras.Variable([[2.0, -3.0]], name="kernel"), keras.Variable([2.0], name="bias")
    optimizer = FusedAdam(0.1, l2=0.5, epsilon=0.0)
    optimizer.apply([np.zeros((1, 2), "float32"), np.ones(1, "float32")], [kernel, bias])
    np.testing.assert_allclose(kernel.numpy(), [[1.9, -2.9]], rtol=1e-6)
    momentum = optimizer.variables[2].numpy()
    np.testing.assert_allclose(momentum, [[0.1 * 0.5 * 2, 0.1 * 0.5 * -3]], rtol=1e-6)


def test_mixed_float16_scales_the_loss_and_skips_overflow():
    model = train(FusedAdam(0.02), steps=3, policy="mixed_float16")
    model.compile(keras.optimizers.LossScaleOptimizer(FusedAdam(0.02)), "mse")
    x, y = data()
    before = model.get_weights()
    model.train_on_batch(x * np.float32(np.nan), y)
    for weight, kept in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, kept)
    assert float(model.optimizer.dynamic_scale.numpy()) == 2.0**14
    model.train_on_batch(x, y)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert int(model.optimizer.iterations.numpy()) == 1
    assert np.abs(model.get_weights()[0] - before[0]).max() > 1e-3


def test_learning_rate_of_plateau_can_be_set():
    optimizer = make_optimizer(Recipe(schedule="plateau"), 1e-3)
    variable = keras.Variable([1.0])
    optimizer.epsilon = 0.0
    optimizer.apply([np.ones(1, "float32")], [variable])
    optimizer.learning_rate = 1e-2
    optimizer.apply([np.ones(1, "float32")], [variable])
    np.testing.assert_allclose(variable.numpy(), [1 - 1e-3 - 1e-2], rtol=1e-5)


def test_save_and_load_go_on_alike(tmp_path):
    x, y = data()
    model = train(make_optimizer(Recipe(ema=0.9, clip_norm=1.0), OneCycle(0.05, 20)), steps=8)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, FusedAdam)
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for trained in (model, loaded):
        for _ in range(3):
            trained.train_on_batch(x, y)
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_one_cycle_equals_torch():
    expected = np.load(FIXTURES / "schedules_torch.npz")
    schedules = {
        "one_cycle": OneCycle(5e-3, 50),
        "one_cycle_fraction": OneCycle(1e-2, 37, 0.23, 25.0, 1e3),
    }
    for name, schedule in schedules.items():
        rates = np.array([schedule(step) for step in range(len(expected[name]))])
        np.testing.assert_allclose(rates, expected[name], rtol=2e-5, atol=1e-9, err_msg=name)


def test_one_cycle_by_hand():
    # 21 steps, top at step 0.5 * 21 - 1 = 9.5, end at 20; halfway down (14.75) is the mean of 1 and 0.01.
    schedule = OneCycle(1.0, 21, warmup=0.5, start_divisor=10, final_divisor=100)
    rates = [float(schedule(step)) for step in (0, 9.5, 14.75, 20, 1000)]
    np.testing.assert_allclose(rates, [0.1, 1, 0.505, 0.01, 0.01], rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_one_cycle_of_few_steps_is_finite(steps):
    rates = np.array([OneCycle(1.0, steps)(step) for step in range(steps + 1)])
    assert np.isfinite(rates).all()
    assert (rates > 0).all()


def test_make_learning_rate():
    assert make_learning_rate(Recipe(schedule="constant", learning_rate=0.3), 10) == 0.3
    assert make_learning_rate(Recipe(schedule="plateau", learning_rate=0.3), 10) == 0.3
    cosine = make_learning_rate(Recipe(schedule="cosine", learning_rate=1.0, final_divisor=100), 11)
    # from 1 to 0.01: halfway 0.505
    np.testing.assert_allclose([float(cosine(step)) for step in (0, 5, 10)], [1, 0.505, 0.01], rtol=1e-5)
    cycle = make_learning_rate(Recipe(learning_rate=0.2, warmup=0.3, start_divisor=5), 40)
    assert cycle.get_config() == OneCycle(0.2, 40, 0.3, 5, 1e4).get_config()
    with pytest.raises(InputError, match="steps=0: expected at least 1"):
        make_learning_rate(Recipe(), 0)


def test_make_optimizer_reads_the_config():
    config = Recipe(optimizer="adam", weight_decay=0.1, clip_norm=2.0, decay_all=True, adam_epsilon=1e-8)
    adam = make_optimizer(config, 1e-3)
    assert (adam.decay_all, adam.epsilon) == (True, 1e-8)
    assert (adam.l2, adam.weight_decay, adam.global_clipnorm, adam.use_ema) == (0.1, 0.0, 2.0, False)
    adamw = make_optimizer(Recipe(weight_decay=0.1, ema=0.99), 1e-3)
    assert (adamw.l2, adamw.weight_decay, adamw.global_clipnorm) == (0.0, 0.1, None)
    assert (adamw.use_ema, adamw.ema_momentum) == (True, 0.99)


REPLICAS = """
import sys
import numpy as np
import tensorflow as tf

replicas = int(sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
import keras
from moa_tf.layers.weight_norm import WeightNormDense
from moa_tf.config import Recipe
from moa_tf.training.optimizers import OneCycle, make_optimizer

strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
rng = np.random.default_rng(0)
x, y = rng.normal(size=(32, 6)).astype("float32"), rng.normal(size=(32, 3)).astype("float32")
keras.utils.set_random_seed(5)
with strategy.scope():
    model = keras.Sequential([keras.Input((6,)), WeightNormDense(9, "tanh"), WeightNormDense(3)])
    for layer, batch in zip(model.layers, (x, model.layers[0].initialise_from(x))):
        layer.initialise_from(batch)
    config = Recipe(weight_decay=0.1, clip_norm=1.0, ema=0.9, optimizer=sys.argv[3])
    model.compile(make_optimizer(config, OneCycle(0.05, 20)), "mse")
model.fit(np.tile(x, (20, 1)), np.tile(y, (20, 1)), batch_size=32, shuffle=False, verbose=0)
assert all(np.isfinite(w).all() for w in model.get_weights())
np.savez(sys.argv[2], *model.get_weights(), *(v.numpy() for v in model.optimizer.variables))
"""


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_mirrored_replicas_agree(tmp_path, optimizer):
    paths = [tmp_path / f"{replicas}.npz" for replicas in (1, 2)]
    for replicas, path in enumerate(paths, 1):
        subprocess.run([sys.executable, "-c", REPLICAS, str(replicas), str(path), optimizer], check=True)
    one, two = (np.load(path) for path in paths)
    assert len(one.files) > 10
    for name in one.files:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-5)


JAX = """
import keras, numpy as np
from moa_tf.training.optimizers import FusedAdam
assert keras.backend.backend() == "jax"
rng = np.random.default_rng(0)
x, y = rng.normal(size=(32, 6)).astype("float32"), rng.normal(size=(32, 3)).astype("float32")
weights = []
for kind in (keras.optimizers.AdamW, FusedAdam):
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(9, "tanh"), keras.layers.Dense(3)])
    optimizer = kind(learning_rate=2e-3, weight_decay=1.0)
    if kind is keras.optimizers.AdamW:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, "mse")
    model.fit(x, y, epochs=20, batch_size=32, shuffle=False, verbose=0)
    weights.append(model.get_weights())
for ours, theirs in zip(*weights):
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-6)
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
@pytest.mark.slow
def test_equals_keras_adamw_on_jax():
    subprocess.run([sys.executable, "-c", JAX], env=os.environ | {"KERAS_BACKEND": "jax"}, check=True)


@pytest.mark.parametrize("kind", ["weight_decay", "l2"])
@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize("by", ["variable", "name", "path", "saved"])
def test_what_is_excluded_does_not_decay(kind, decay_all, by):
    # No gradient: only decay moves a weight. Excluded is the first layer's kernel, or both.
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2, name="first"), keras.layers.Dense(2, name="last")]
    )
    kernel = model.get_layer("first").kernel
    optimizer = FusedAdam(0.1, decay_all=decay_all, **{kind: 0.5})
    if by == "variable":
        optimizer.exclude_from_weight_decay(var_list=[kernel])
    else:
        optimizer.exclude_from_weight_decay(
            var_names=["kernel"] if by == "name" else ["bias", "first/kernel"]
        )
    if by == "saved":
        optimizer = FusedAdam.from_config(json.loads(json.dumps(optimizer.get_config())))
    before = model.get_weights()
    zeros = [np.zeros(weight.shape, "float32") for weight in before]
    optimizer.apply(zeros, model.trainable_variables)
    moved = [(now != then).any() for now, then in zip(model.get_weights(), before, strict=True)]
    # A bias of 0 stays 0 whatever decays.
    assert moved == [False, False, by != "name", False]


def test_excluded_variables_are_found_again_in_a_loaded_model(tmp_path):
    x, y = data()
    model = network()
    optimizer = FusedAdam(0.01, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[model.layers[0].kernel])
    model.compile(optimizer, "mse")
    model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for trained in (model, loaded):
        trained.train_on_batch(x, y)
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    other = train(FusedAdam(0.01, weight_decay=0.5), steps=2)
    assert np.abs(other.get_weights()[0] - model.get_weights()[0]).max() > 1e-4
    np.testing.assert_allclose(other.get_weights()[2], model.get_weights()[2], atol=1e-3)


def test_amsgrad_is_refused():
    with pytest.raises(InputError, match="amsgrad=True"):
        FusedAdam(amsgrad=True)


def test_one_cycle_without_a_step_to_rise_falls_after_its_first():
    # 0.1 · 5 − 1 < 0: from 1 at step 0, which is the start's, to 0.1 at step 4; a quarter is 0.1 + 0.45 (1 + cos 45°).
    schedule = OneCycle(1.0, 5, final_divisor=10)
    rates = [float(schedule(step)) for step in (0, 1, 2, 4)]
    np.testing.assert_allclose(rates, [1e-3, 0.1 + 0.45 * (1 + np.sqrt(0.5)), 0.55, 0.1], rtol=5e-5)


@pytest.mark.parametrize("options", [{}, {"l2": 0.5}, {"weight_decay": 0.5}], ids=str)
def test_a_gradient_of_few_rows_is_that_of_all(options):
    # An embedding's gradient comes as the rows that were looked up, the same row twice.
    start = np.arange(8, dtype="float32").reshape(4, 2)
    tables = [keras.Variable(start, name="kernel") for _ in range(2)]
    sparse = tf.IndexedSlices(
        tf.constant([[1.0, 2], [3, 4], [5, 6]]), tf.constant([2, 0, 2]), tf.constant([4, 2])
    )
    for table, gradient in zip(
        tables, (sparse, tf.constant([[3.0, 4], [0, 0], [6, 8], [0, 0]])), strict=True
    ):
        optimizer = FusedAdam(0.1, **options)
        for _ in range(2):
            optimizer.apply([gradient], [table])
    np.testing.assert_allclose(tables[0].numpy(), tables[1].numpy(), rtol=1e-6)
    assert (tables[0].numpy()[0] < start[0] - 0.1).all()
