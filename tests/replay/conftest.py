import pytest
import torch as th


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Networks this small only wait for more, and other tests run beside these."""
    th.set_num_threads(1)
