"""A bug of the server's: the client gets a 500 and an id, the log the trace under the same id."""

from __future__ import annotations

import logging
import pickle
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from descant.errors import ArgumentError
from descant.extras import MissingExtra
from descant.serve.frontend.server import Server
from descant.serve.http.app import application
from descant.serve.protocol.messages import InternalError
from descant.serve.worker.loop import portable

BODY = {"model": "base", "prompt": "How do I boil eggs?", "max_tokens": 3}


def raised(error: Exception) -> Exception:
    """An error as the server's process gets it from the one that decodes."""
    try:
        raise error
    except Exception as caught:
        return pickle.loads(pickle.dumps(portable(caught)))


@pytest.fixture
def asked(run_file, monkeypatch):
    """``asked(error)``: the answer to a request whose command fails with an error."""

    def ask(error: Exception, **more: Any) -> Any:
        server = Server(run_file)

        async def fails(*_: Any) -> None:
            raise error

        monkeypatch.setattr(server.link, "call", fails)
        for command in server.formulas.compile_named():
            assert command.formula
        client = TestClient(application(server), raise_server_exceptions=False)
        return client.post("/v1/completions", json={**BODY, **more})

    return ask


def test_a_bug_is_a_500_with_an_id_that_the_log_has(asked, caplog) -> None:
    for error in (raised(TypeError("unsupported operand")), ValueError("not for users")):
        caplog.clear()
        with caplog.at_level(logging.ERROR, "descant.serve"):
            answer = asked(error)
        assert answer.status_code == 500 and answer.headers["x-should-retry"] == "false"
        said = answer.json()["error"]
        assert said["code"] == said["type"] == "server_error"
        id = re.search(r"with the id ([0-9a-f]{32})$", said["message"])[1]
        assert str(error) not in answer.text and "Traceback" not in answer.text
        [record] = [each for each in caplog.records if id in each.getMessage()]
        trace = logging.Formatter().format(record)
        assert "Traceback" in trace and str(error) in trace
    assert "in raised" not in trace
    assert isinstance(raised(TypeError("x")), InternalError)
    assert "in raised" in raised(TypeError("x")).__notes__[0]


def test_a_mistake_of_the_clients_is_a_400(asked) -> None:
    answer = asked(raised(ArgumentError("n is 0")))
    assert answer.status_code == 400 and answer.json()["error"]["message"] == "n is 0"
    answer = asked(raised(MissingExtra("a figure", "matplotlib")))
    assert answer.status_code == 400 and "pip install" in answer.json()["error"]["message"]
