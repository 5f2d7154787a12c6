"""Whether the hub answers, and which towers have regions: what is asked before anything runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import torch

from vlood.backbone.hub import why_unreachable
from vlood.backbone.local import encode_with_local, local_refusal, region_grid, region_size


@pytest.fixture
def answering() -> Iterator[Callable[[int], str]]:
    """Return a function that gives the address of a server with one answer to everything."""
    servers: list[HTTPServer] = []

    def serve(status: int) -> str:
        class Answer(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(status)
                self.end_headers()

            def log_message(self, format: str, *values: Any) -> None: ...

        servers.append(HTTPServer(("127.0.0.1", 0), Answer))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for one in servers:
        one.shutdown()
        one.server_close()


@pytest.mark.parametrize("status", [200, 404, 503])
def test_any_answer_means_that_the_hub_is_there(
    status: int, answering: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert why_unreachable(answering(status)) is None


def test_an_endpoint_that_is_no_web_address_is_not_asked() -> None:
    assert why_unreachable("ftp://mirror") == "ftp://mirror is no web address"


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_the_grid_is_known_before_anything_is_computed(
    tower: str, make_model: Callable[..., Any], resnet: Any
) -> None:
    vision = {"image_size": [32, 48], "layers": 1}
    visual = resnet.visual if tower == "resnet" else make_model(vision=vision).visual
    size = (64, 64) if tower == "resnet" else (32, 48)
    with torch.inference_mode():
        *_, found = encode_with_local(visual, torch.zeros(1, 3, *size))
    assert region_grid(visual, size) == found
    rows, columns = region_size(visual)
    assert (found[0] * rows, found[1] * columns) == size


def test_a_tower_that_lost_its_pooling_has_no_regions(make_model: Callable[..., Any]) -> None:
    visual = make_model(vision={"layers": 1}).visual
    assert local_refusal(visual) is None
    visual.pool_type = "none"
    assert "does not pool its tokens" in (local_refusal(visual) or "")
    headless = make_model(
        vision={"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "patch_size": None}
    ).visual
    assert local_refusal(headless) is None
    headless.attnpool = torch.nn.Identity()
    assert "lost its attention pooling" in (local_refusal(headless) or "")
