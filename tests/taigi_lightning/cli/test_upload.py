"""What reaches a Hub that stands in for the real one at the network's edge, and what is refused before."""

import base64
import hashlib
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

PART = 60_000  # bytes of a large file that go up at once, in several parts


class Hub(BaseHTTPRequestHandler):
    """The requests that an upload makes; it keeps what each repository was given.

    Large files come into the commit itself, into the older storage (LFS: small ones whole, others in parts), or into
    Xet's, which here is a folder.
    """

    repositories: dict[str, dict[str, Any]]
    stored: dict[str, bytes]  # by the path that they were sent to

    def do_GET(self) -> None:
        if self.server.refusing == "storage":  # type: ignore[attr-defined]
            return self.answer(403, {"error": "no right to store"})
        if "xet-write-token" in self.path:
            place = f"local://{self.server.folder}"  # type: ignore[attr-defined]
            return self.answer(200, {"accessToken": "t", "exp": 4102444800, "casUrl": place})
        return self.answer(404, {})

    def do_PUT(self) -> None:
        if self.server.refusing == "storage":  # type: ignore[attr-defined]
            return self.answer(403, {"error": "no right to store"})
        self.stored[self.path] = self.rfile.read(int(self.headers["content-length"]))
        return self.answer(200, {}, etag=f'"{len(self.stored)}"')

    def do_POST(self) -> None:
        self.server.tokens.add(self.headers.get("authorization"))  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        parts = self.path.strip("/").split("/")
        answer: Any = {}
        here = f"http://{self.headers['host']}"
        if self.server.refusing is True:  # type: ignore[attr-defined]
            return self.answer(403, {"error": "no right to write"})
        if parts[:3] == ["api", "repos", "create"]:
            made = json.loads(body)
            name = f"{made['organization']}/{made['name']}" if made.get("organization") else made["name"]
            self.repositories[name] = {"settings": made, "files": {}}
            answer = {"url": f"{here}/{name}", "name": name}
        elif "preupload" in parts:
            files = [
                {**file, "uploadMode": self.mode(file["path"]), "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            answer = {"files": files}
        elif self.path.endswith("/objects/batch"):
            answer = {"objects": [self.action(here, file) for file in json.loads(body)["objects"]]}
        elif self.path.startswith("/complete/"):
            given = [part["partNumber"] for part in json.loads(body)["parts"]]
            assert given == [*range(1, len(given) + 1)]
        elif "commit" in parts:
            lines = [json.loads(line) for line in body.splitlines()]
            given = {
                line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"
            }
            name = "/".join(parts[2:4])
            self.repositories[name]["files"] |= {path: base64.b64decode(text) for path, text in given.items()}
            large = (line["value"] for line in lines if line["key"] == "lfsFile")
            self.repositories[name]["large"] = {file["path"]: file["oid"] for file in large}
            answer = {"commitUrl": f"{here}/{name}/commit/0", "commitOid": "0" * 40}
        return self.answer(200, answer)

    def mode(self, path: str) -> str:
        return "lfs" if self.server.large and path.endswith(".safetensors") else "regular"  # type: ignore[attr-defined]

    def action(self, here: str, file: dict[str, Any]) -> dict[str, Any]:
        """Where a file of the older storage is to be sent."""
        upload: dict[str, Any] = {"href": f"{here}/whole/{file['oid']}"}
        if (count := -(-file["size"] // PART)) > 1:
            header = {str(n): f"{here}/part/{file['oid']}/{n}" for n in range(1, count + 1)}
            upload = {"href": f"{here}/complete/{file['oid']}", "header": header | {"chunk_size": str(PART)}}
        return {"oid": file["oid"], "size": file["size"], "actions": {"upload": upload}}

    def answer(self, code: int, content: Any, **headers: str) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    Hub.repositories, Hub.stored = {}, {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        made: Any = server
        made.tokens, made.refusing, made.large, made.folder = set(), False, False, tmp_path
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
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


@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
def test_large_files_go_into_the_hubs_storage(
    hub: Any, run: Path, xet: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", not xet)
    hub.large = True
    upload_command(run, "mei/taigi", base_model="someone/base", license="mit")
    found = Hub.repositories["mei/taigi"]["large"] | Hub.repositories["mei/taigi-adapter"]["large"]
    files = [*run.glob("*.safetensors"), run / "adapter" / "adapter_model.safetensors"]
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert found == hashes
    assert not any(path.endswith(".safetensors") for path in Hub.repositories["mei/taigi"]["files"])
    if xet:
        held = sum(path.stat().st_size for path in tmp_path.rglob("xorbs/default.*"))
        assert held > 0.5 * max(path.stat().st_size for path in files)
        return
    for path in files:
        parts = sorted(
            (int(place.rpartition("/")[2]), data)
            for place, data in Hub.stored.items()
            if place.startswith(f"/part/{hashes[path.name]}")
        )
        whole = Hub.stored.get(f"/whole/{hashes[path.name]}", b"".join(data for _, data in parts))
        assert whole == path.read_bytes(), path.name
    assert any(place.startswith("/part/") for place in Hub.stored)


@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
def test_a_storage_that_refuses_is_one_sentence_and_leaves_no_commit(
    hub: Any, run: Path, xet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", not xet)
    hub.large, hub.refusing = True, "storage"
    with pytest.raises(InputError, match=r"mei/taigi.*the same command tries again") as refused:
        upload_command(run, "mei/taigi", part="merged")
    assert "\n" not in str(refused.value) and not Hub.repositories["mei/taigi"]["files"]


def test_a_hub_that_is_not_there_is_one_sentence(
    run: Path, monkeypatch: pytest.MonkeyPatch, hub: Any
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"cannot be reached for mei/taigi"):
        upload_command(run, "mei/taigi", part="merged")


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
