"""A hub on this machine: the calls by which huggingface_hub makes a repository and commits to it, kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_only-for-tests"


class HubServer:
    """``with HubServer() as hub``: ``hub.url`` is its address, ``hub.files`` what was committed, by repository and
    name, ``hub.created`` what was asked of new repositories, ``hub.commits`` how many commits there were."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.created: list[dict] = []
        self.commits = 0
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, path: str, body: bytes) -> dict:
        """What the hub says to a POST, changing what it keeps."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.created.append(asked)
            name = f"{asked['organization']}/{asked['name']}"
            self.files.setdefault(name, {})
            return {"url": f"{self.url}/{name}", "name": name, "id": name}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            return {
                "files": [
                    {
                        "path": own["path"],
                        "uploadMode": "lfs" if own["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for own in files
                ]
            }
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**own, "actions": {"upload": {"href": f"{self.url}/lfs/{own['oid']}"}}}
                for own in json.loads(body)["objects"]
            ]
            return {"transfer": "basic", "objects": objects}
        if "/commit/" in path:
            name = "/".join(path.split("/")[3:5])
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[name][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.files[name][value["path"]] = self.large[value["oid"]]
            self.commits += 1
            oid = "0" * 40
            return {"commitUrl": f"{self.url}/{name}/commit/{oid}", "commitOid": oid}
        raise KeyError(path)

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805  (self is the request's)
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self._body()
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    self._say(401, {"error": "Invalid credentials in Authorization header"})
                    return
                self._say(200, hub.answer(self.path.partition("?")[0], body))

            def do_PUT(self) -> None:
                body = self._body()
                assert hashlib.sha256(body).hexdigest() == self.path.rpartition("/")[2]
                hub.large[self.path.rpartition("/")[2]] = body
                self._say(200, {})

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                    return body
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def _say(self, code: int, content: dict) -> None:
                written = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(written)))
                self.end_headers()
                self.wfile.write(written)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
