"""Pretrained encoder weights: only when asked, once, with progress; without the internet a message that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
from safetensors.torch import save

from autoseg_lib.errors import ModelError
from autoseg_lib.networks.pretrained import fetch_encoder_weights
from autoseg_lib.networks.registry import NetworkSpec
from tests.helpers.real_data import REPOSITORY

ENCODER = "mobilenet_v2"

# Run in a process of its own: the client of the weights reads its settings once, when it is imported.
SCRIPT = """
import os
import sys
from huggingface_hub import constants
from autoseg_lib.errors import ModelError
from autoseg_lib.events import Progress
from autoseg_lib.networks.pretrained import fetch_encoder_weights
from autoseg_lib.networks.registry import NetworkSpec, build_network

spec = NetworkSpec("2D", "unet", 2, (64, 64), "mobilenet_v2")
build_network(spec)
print("UNASKED", os.path.exists(os.path.join(os.environ["HF_HOME"], "hub")))
events = []
try:
    fetch_encoder_weights(spec, events.append)
    network = build_network(spec, pretrained=True)
except ModelError as error:
    print("REFUSED", error)
    constants.HF_HUB_OFFLINE = True
    try:
        fetch_encoder_weights(spec, events.append)
    except ModelError as again:
        print("AGAIN", str(again) == str(error))
    sys.exit()
for event in events:
    print("EVENT", event)
print("WEIGHTS", float(network.encoder.features[1].conv[0][0].weight.mean()))
"""


def run(home: Path, **environment: str) -> str:
    settings = {
        key: value
        for key, value in os.environ.items()
        if "proxy" not in key.lower() and not key.startswith("HF_")
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        cwd=REPOSITORY,
        env={**settings, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Retrying" not in done.stderr
    return done.stdout


def test_without_the_internet(tmp_path: Path) -> None:
    """Behind a proxy that is not there; and the same where the client was told to stay offline."""
    text = run(tmp_path, HTTPS_PROXY="http://127.0.0.1:9")
    assert "UNASKED False" in text, "nothing was looked for before it was asked for"
    assert "REFUSED pretrained = True: the weights of 'mobilenet_v2'" in text
    assert "(smp-hub/mobilenet_v2.imagenet, model.safetensors) are not on this computer" in text
    assert "https://huggingface.co cannot be reached. Connect to the internet once (they are kept in" in text
    assert str(tmp_path) in text and "or set pretrained = False." in text
    assert "AGAIN True" in text


class Store(BaseHTTPRequestHandler):
    """Answers as the place of the weights does, with the made weights of ``content``."""

    content: bytes = b""
    asked: list[str] = []  # noqa: RUF012 - shared by all requests

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.asked.append(f"{self.command} {self.path}")
        data = b"{}" if self.path.endswith("config.json") else self.content
        revision = smp.encoders.encoders[ENCODER]["pretrained_settings"]["imagenet"]["revision"]
        self.send_response(200)
        self.send_header("ETag", f'"{len(data)}"')
        self.send_header("X-Repo-Commit", revision)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def store() -> Iterator[str]:
    encoder = smp.encoders.get_encoder(ENCODER)
    for weight in encoder.state_dict().values():
        weight.fill_(3)
    Store.content, Store.asked = save({k: v.contiguous() for k, v in encoder.state_dict().items()}), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_fetched_once_with_progress(store: str, tmp_path: Path) -> None:
    text = run(tmp_path, HF_ENDPOINT=store)
    assert "UNASKED False" in text
    assert f"Fetching the pretrained weights of 'mobilenet_v2' once from {store}." in text
    megabytes = round(len(Store.content) / 1e6)
    assert f"Progress(stage='Encoder weights', done={megabytes}, total={megabytes}, detail='MB'" in text
    assert "WEIGHTS 3.0" in text
    # Now they are here: no internet is needed, and nothing is said.
    again = run(tmp_path, HF_HUB_OFFLINE="1")
    assert again.splitlines() == ["UNASKED True", "WEIGHTS 3.0"]


@pytest.mark.parametrize(
    "spec",
    [
        NetworkSpec("2D", "pyramid_vnet", 2, (64, 64)),
        NetworkSpec("3D", "unet", 2, (16, 16, 16)),
    ],
    ids=["pyramid_vnet", "3D"],
)
def test_networks_without_an_encoder(spec: NetworkSpec) -> None:
    with pytest.raises(
        ModelError,
        match=rf"there are no pretrained weights for the {spec.dimension} network {spec.name}. Set",
    ):
        fetch_encoder_weights(spec)
