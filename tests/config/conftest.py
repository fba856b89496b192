"""Hydra looks for configs in conf/, for every test of this folder."""

from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir

from tests.config.composing import CONF


@pytest.fixture(scope="module", autouse=True)
def conf() -> Iterator[None]:
    import sft.folders  # noqa: F401, its resolvers

    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
