"""A small Hugging Face Hub on this machine: a folder's files as one data set, public or gated, and a log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

REVISION = "a" * 40
TOKEN = "hf_right"


class _Hub(BaseHTTPRequestHandler):
    """The few addresses of the Hub that `datasets` asks for."""

    folder: Path
    name: str
    gated: bool

    def log_message(self, format: str, *values: Any) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/api/datasets":
            return self._say(200, [{"id": self.name}])
        if self.name not in path.split("@")[0] or f"{self.name}/" not in f"{path}/":
            return self._say(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if "/v9/" in f"{path}/":
            return self._say(404, {"error": "Invalid rev id: v9"}, {"X-Error-Code": "RevisionNotFound"})
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        _, resolved, file = path.partition(f"/datasets/{self.name}/resolve/{REVISION}/")
        if resolved or "/resolve/" in path:
            file = file or path.split("/resolve/", 1)[1].split("/", 1)[1]
            return self._send(file, allowed)
        if "/tree/" in path:
            below = self.folder / path.split("/tree/", 1)[1].partition("/")[2]
            found = below.rglob("*") if "recursive=true" in self.path.lower() else below.iterdir()
            return self._say(200, list(map(self._entry, sorted(found))))
        about = {
            "id": self.name, "sha": REVISION, "private": False, "gated": "manual" if self.gated else False,
            "siblings": [{"rfilename": p.relative_to(self.folder).as_posix()} for p in self._files()],
            "tags": [], "downloads": 0, "likes": 0, "disabled": False,
        }  # fmt: skip
        return self._say(200, about)

    def _files(self) -> list[Path]:
        return [p for p in sorted(self.folder.rglob("*")) if p.is_file()]

    def _entry(self, path: Path) -> dict[str, Any]:
        name = path.relative_to(self.folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "size": 0, "oid": "b" * 40}
        oid = hashlib.sha256(path.read_bytes()).hexdigest()[:40]
        return {"type": "file", "path": name, "size": path.stat().st_size, "oid": oid}

    def _send(self, file: str, allowed: bool) -> None:
        if self.gated and not allowed and file != "README.md":
            headers = {
                "X-Error-Code": "GatedRepo",
                "X-Error-Message": f"Access to dataset {self.name} is restricted.",
            }
            return self._say(401, {"error": "gated"}, headers)
        path = self.folder / file
        if not path.is_file():
            return self._say(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        data = path.read_bytes()
        start, end = 0, len(data)
        if (wanted := self.headers.get("Range")) and wanted.startswith("bytes="):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else len(data)
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes",
        }  # fmt: skip
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        return self._write(206 if wanted else 200, data[start:end], headers)

    def _say(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._write(
            status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    def _write(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.server.log.append(f"{self.command} {self.path} {status}")  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serve(folder: Path, name: str, gated: bool = False) -> Iterator[tuple[str, list[str]]]:
    """The Hub's address while it runs, and what was asked of it."""
    handler = type("Hub", (_Hub,), {"folder": folder, "name": name, "gated": gated})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.log = []  # type: ignore[attr-defined]
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.log  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
