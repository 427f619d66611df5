"""Set before torch is imported: tiny models run fastest on one thread, and nothing may reach a hub."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

from faults.table import pytest_terminal_summary, trials  # noqa: F401  the table of tests/faults
from hypothesis import HealthCheck, settings

# A busy machine is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session")
def emblems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Emblems dataset: 24 posts to train on, 6 each of dev and test. Not to be written to."""
    from data_builders.emblems.build import build_emblems

    folder = tmp_path_factory.mktemp("data") / "emblems"
    build_emblems(folder, 3, train=24, dev=6, test=6)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, emblems: Path) -> Path:
    """An untrained base that knows the location tokens of 64 bins. Not to be written to."""
    from tiny_base import save_base, texts  # here, since it imports torch

    return save_base(tmp_path_factory.mktemp("base"), texts(emblems))


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory, base: Path, emblems: Path) -> Path:
    """A base that can answer the dev posts of a dataset, as ``tiny_base.save_learned`` lays them out."""
    from tiny_base import save_learned

    folder = tmp_path_factory.mktemp("learned")
    save_learned(folder, base, emblems)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, base: Path, emblems: Path):
    """A trained model that writes all five segments, a ``tiny_base.Trained``. Not to be written to."""
    from tiny_base import save_trained

    return save_trained(tmp_path_factory.mktemp("trained"), base, emblems)
