"""A dataset for trainings in processes of their own."""

import pytest

from tests.lakes.drawn import make_drawn_lake


@pytest.fixture(scope="module")
def drawn_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lake with drawn@1, whose 48 pictures have 8 pixels a side. Not to be changed: copy it."""
    return make_drawn_lake(tmp_path_factory.mktemp("drawn"), 48, side=8).url
