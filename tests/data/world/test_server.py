"""The origin server: it counts, keeps connections, ends when told, and says what is wrong with a folder."""

import http.client
import json
import os
import urllib.request
from pathlib import Path

import pytest

from data.errors import WorldError
from data.world.server import OriginServer, start_process
from tests.servers.small_world import jpeg, make_small_world


def stats(url: str) -> dict[str, object]:
    with urllib.request.urlopen(f"{url}/.stats") as answer:
        return dict(json.load(answer))


def test_it_counts_requests_and_keeps_the_connection(tmp_path: Path) -> None:
    with OriginServer(make_small_world(tmp_path)) as origin:
        talk = http.client.HTTPConnection(origin.address)
        for n in range(5):
            talk.request("GET", f"/p/ok{n}.jpg")
            answer = talk.getresponse()
            assert (answer.status, answer.read()) == (200, jpeg())
        talk.close()
        counts = stats(origin.url)
    assert counts["pictures"] == 5
    assert counts["connections"] == 2
    assert counts["paths"] == {f"/p/ok{n}.jpg": 1 for n in range(5)}


def test_what_heals_does_so_at_the_second_request(tmp_path: Path) -> None:
    with OriginServer(make_small_world(tmp_path)) as origin:
        talk = http.client.HTTPConnection(origin.address)
        got = []
        for _ in range(3):
            talk.request("GET", "/p/heals.jpg")
            answer = talk.getresponse()
            answer.read()
            got.append(answer.status)
        talk.close()
    assert got == [500, 200, 200]


def test_it_runs_as_a_process_that_ends_with_the_block(tmp_path: Path) -> None:
    with start_process(make_small_world(tmp_path)) as origin:
        with urllib.request.urlopen(f"{origin.url}/p/ok0.jpg") as answer:
            assert answer.read() == jpeg()
        number = origin.process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_a_folder_that_is_no_world_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="is not a built-in world"):
        OriginServer(tmp_path)
    with pytest.raises(WorldError, match="did not start"):
        start_process(tmp_path)
