"""A stand-in for the Hugging Face Hub on loopback: as much of its HTTP interface as an upload of small files needs."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef" * 2 + "01234567"


@dataclass
class Hub:
    """The stand-in, with one account `me`. A token other than `token` is refused."""

    token: str = "hf_test"
    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: int = 0


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve a stand-in on a free port."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
            pass

        def do_HEAD(self) -> None:
            self.resolve(body=False)

        def do_GET(self) -> None:
            if "/resolve/" in self.path:
                self.resolve(body=True)
            elif "/tree/" in self.path:
                name = self.path.removeprefix("/api/datasets/").partition("/tree/")[0]
                found = [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in hub.files[name].items()
                ]
                self.answer(200, found)
            else:
                self.answer(404, {})

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                self.answer(401, {"error": "Invalid credentials in Authorization header"})
                return
            if self.path == "/api/repos/create":
                asked = json.loads(data)
                name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                if name in hub.files:
                    self.answer(409, {"error": "exists", "url": f"{hub.url}/datasets/{name}"})
                    return
                hub.files[name] = {".gitattributes": b""}
                hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
                self.answer(200, {"url": f"{hub.url}/datasets/{name}", "name": name})
            elif self.path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                paths = [file["path"] for file in json.loads(data)["files"]]
                modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
                self.answer(200, {"files": modes})
            elif "/commit/" in self.path:
                self.commit(self.path.removeprefix("/api/datasets/").partition("/commit/")[0], data)
            else:
                self.answer(404, {})

        def commit(self, name: str, data: bytes) -> None:
            hub.commits += 1
            for line in data.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    hub.files[name][item["value"]["path"]] = base64.b64decode(item["value"]["content"])
                elif item["key"] == "deletedFile":
                    del hub.files[name][item["value"]["path"]]
            url = f"{hub.url}/datasets/{name}/commit/{COMMIT}"
            self.answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": url})

        def resolve(self, *, body: bool) -> None:
            name, _, path = self.path.partition("?")[0].removeprefix("/datasets/").partition("/resolve/main/")
            data = hub.files.get(name, {}).get(path)
            if data is None:
                self.answer(404, None, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                return
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self.answer(200, data if body else None, headers, length=len(data))

        def answer(
            self, status: int, content: Any, headers: dict[str, str] | None = None, *, length: int | None = None
        ) -> None:
            data = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data) if length is None else length))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
