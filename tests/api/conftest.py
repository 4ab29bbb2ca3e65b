import sys

import pytest

import moa_tf
from moa_tf.cli.main import main
from moa_tf.data.simulate import write_simulation
from moa_tf.training.reporter import Reporter

SETTINGS = {"hidden": (16,), "decays": (), "early_stopping": 0, "dropout": 0.1}


class Kept(Reporter):
    """Keeps what it is told."""

    def __init__(self):
        self.lines, self.told = [], []

    def message(self, line):
        self.lines.append(line)

    def settings(self, description):
        self.told.append(("settings", description["settings"]["recipe"]["epochs"]))

    def member(self, label, epochs, steps):
        self.told.append(("member", label))

    def epoch(self, epoch, figures):
        self.told.append(("epoch", epoch, figures))

    def metrics(self, metrics):
        self.told.append(("metrics", metrics["overall"]["log_loss_treated"]))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_simulation(tmp_path_factory.mktemp("data") / "sample", 400, seed=3)


@pytest.fixture(scope="session")
def kept():
    return Kept()


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def trained(data, home, kept):
    return moa_tf.train(
        data,
        settings=SETTINGS,
        folds=2,
        epochs=3,
        batch_size=64,
        out=home / "run",
        tensorboard=home / "board",
        callbacks=[kept],
    )


@pytest.fixture(scope="session")
def saved_model(trained, home):
    return trained.export(home / "models")


@pytest.fixture
def call(monkeypatch, tmp_path, capsys):
    """A command, in this process: its status and what it printed."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["moa-tf", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return run
