"""What holds for every test: threads, caches, no network, and how hypothesis looks for examples."""

import os

import pytest
from hypothesis import settings

# Set before anything imports torch or numpy, and inherited by the processes that tests start. The networks here are so
# small that more threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

# How long an example takes depends on the machine and its other work, so no test fails for that.
settings.register_profile("here", deadline=None)
settings.register_profile("continuous integration", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("continuous integration" if os.environ.get("CI") else "here")


def pytest_configure(config: pytest.Config) -> None:
    """Keeps the networks that tests train out of the user's cache, from one run of the tests to the next."""
    os.environ.setdefault("EVO_MPQ_CACHE", str(config.rootpath / ".pytest_cache" / "networks"))
