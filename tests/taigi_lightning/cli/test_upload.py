"""What reaches a Hub that stands in for the real one at the network's edge, and what is refused before."""

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import pytest

from taigi_lightning.cli.upload import upload_command
from taigi_lightning.errors import InputError
from taigi_lightning.model.lineage import base_identity, write_lineage
from taigi_lightning.model.merge import merge_adapter
from tests.taigi_lightning.model.saved_adapters import save_adapter, save_base


class Hub(BaseHTTPRequestHandler):
    """The four requests that an upload makes; it keeps what each repository was given."""

    repositories: dict[str, dict[str, Any]]

    def do_POST(self) -> None:
        self.server.tokens.add(self.headers.get("authorization"))  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        parts = self.path.strip("/").split("/")
        answer: Any = {}
        here = f"http://{self.headers['host']}"
        if self.server.refusing:  # type: ignore[attr-defined]
            return self.answer(403, {"error": "no right to write"})
        if parts[:3] == ["api", "repos", "create"]:
            made = json.loads(body)
            name = f"{made['organization']}/{made['name']}" if made.get("organization") else made["name"]
            self.repositories[name] = {"settings": made, "files": {}}
            answer = {"url": f"{here}/{name}", "name": name}
        elif "preupload" in parts:
            files = [
                {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
            ]
            answer = {"files": files}
        elif "commit" in parts:
            lines = [json.loads(line) for line in body.splitlines()]
            given = {
                line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"
            }
            name = "/".join(parts[2:4])
            self.repositories[name]["files"] |= {path: base64.b64decode(text) for path, text in given.items()}
            answer = {"commitUrl": f"{here}/{name}/commit/0", "commitOid": "0" * 40}
        return self.answer(200, answer)

    def answer(self, code: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    Hub.repositories = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        made: Any = server
        made.tokens, made.refusing = set(), False
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_ours")
        yield made
        server.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder, with what must stay on this machine too."""
    folder = tmp_path_factory.mktemp("run")
    base = save_base(folder / "base")
    adapter = save_adapter(base, folder / "model" / "adapter")
    write_lineage(adapter, base=base_identity(base))
    merge_adapter(base, adapter, folder / "model")
    (folder / "model" / "checkpoints").mkdir()
    for name in ("checkpoints/step=1.ckpt", "config.yaml", "run.json", "report.html"):
        (folder / "model" / name).write_text("{}")
    return folder / "model"


def test_model_and_adapter_become_two_private_repositories(hub: Any, run: Path) -> None:
    upload_command(run, "mei/taigi", base_model="someone/base", license="mit")
    model, adapter = Hub.repositories["mei/taigi"], Hub.repositories["mei/taigi-adapter"]
    for made in (model["settings"], adapter["settings"]):  # releases of the client spell it in two ways
        assert made.get("private") is True or made.get("visibility") == "private"
    assert hub.tokens == {"Bearer hf_ours"}
    for name, content in model["files"].items():
        assert content == (run / name).read_bytes(), name
    assert {"config.json", "README.md"} <= model["files"].keys()
    assert not {"lineage.json", "config.yaml", "run.json", "report.html"} & model["files"].keys()
    assert b"base_model: someone/base" in model["files"]["README.md"]
    sent = json.loads(adapter["files"]["adapter_config.json"])
    assert sent["base_model_name_or_path"] == "someone/base"
    assert (
        adapter["files"]["adapter_model.safetensors"]
        == (run / "adapter/adapter_model.safetensors").read_bytes()
    )


def test_nothing_is_sent_without_a_token(
    hub: Any, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match="no token of yours"):
        upload_command(run, "mei/taigi")
    assert not Hub.repositories


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("taigi", {}, "names no owner"),
        ("mei/tai gi", {}, "cannot be a name"),
        ("mei/taigi", {}, "a folder that nobody else has"),
        ("mei/taigi", {"folder": "checkpoints"}, "holds no merged model"),
        ("mei/taigi", {"folder": "checkpoints", "part": "adapter"}, "holds no adapter"),
    ],
)
def test_what_cannot_go_up_is_refused_before_anything_is_sent(
    hub: Any, run: Path, name: str, options: dict[str, Any], sentence: str
) -> None:
    options = dict(options)
    with pytest.raises(InputError, match=sentence):
        upload_command(run / options.pop("folder", "."), name, **options)
    assert not Hub.repositories and not hub.tokens


def test_a_refusal_and_a_missing_network_are_one_sentence(
    hub: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.refusing = True
    with pytest.raises(InputError, match="right to write"):
        upload_command(run, "mei/taigi", part="merged")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="cannot be reached"):
        upload_command(run, "mei/taigi", part="merged")
