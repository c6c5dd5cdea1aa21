"""A Hugging Face hub on this machine: as much of its HTTP interface as exchanging models asks for."""

import base64
import hashlib
import http.server
import json
import threading
import urllib.parse


class LocalHub:
    """
    Serves repositories of models, and counts what it is asked for.

    It speaks to ``huggingface_hub`` as the hub does: ``/api/models/<name>/revision/<revision>`` for the commit,
    ``/api/models/<name>/tree/<commit>`` for the files, ``/<name>/resolve/<commit>/<file>`` for their contents; and for
    uploads ``/api/repos/create``, ``/api/models/<name>/preupload/<branch>`` and ``/api/models/<name>/commit/<branch>``.
    """

    def __init__(self) -> None:
        #: for each repository and commit its files; for each repository and branch the commit
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.requests: list[str] = []
        self.failing = False
        hub = self

        class Handler(_Handler):
            def do_GET(self) -> None:
                self.answer(hub)

            def do_POST(self) -> None:
                self.receive(hub)

            do_HEAD = do_GET

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def commit(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        """
        :param name: of a repository
        :param files: all its files
        :param branch: which this becomes the newest commit of
        :return: the commit
        """
        commit = hashlib.sha1(repr((name, sorted(files.items()), len(self.commits))).encode()).hexdigest()
        self.commits[name, commit] = files
        self.branches[name, branch] = commit
        return commit

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        """
        :param name: of a repository
        :param branch: one of its branches
        :return: all files of its newest commit
        """
        return self.commits[name, self.branches[name, branch]]

    @property
    def downloads(self) -> list[str]:
        """Files whose contents were asked for."""
        return [path.rpartition("/")[2] for path in self.requests if path.startswith("GET") and "/resolve/" in path]

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, hub: LocalHub) -> None:
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        if hub.failing:
            self.send(500, b'{"error": "Internal Server Error"}')
        elif path.startswith("/api/models/"):
            self.describe(hub, path.removeprefix("/api/models/").split("/"))
        elif path.startswith("/api/"):
            self.send(404, b'{"error": "Not found"}')
        else:
            self.resolve(hub, path.strip("/").split("/"))

    def describe(self, hub: LocalHub, parts: list[str]) -> None:
        name, kind, revision = "/".join(parts[:2]), *parts[2:4]
        commit = self.commit_of(hub, name, revision)
        if commit is None:
            return
        files = hub.commits[name, commit]
        if kind == "tree":
            entries = [
                {"type": "file", "path": path, "size": len(data), "oid": _oid(data)} for path, data in files.items()
            ]
            self.send(200, json.dumps(entries).encode())
            return
        siblings = [{"rfilename": path} for path in files]
        self.send(
            200, json.dumps({"id": name, "sha": commit, "siblings": siblings, "tags": [], "private": False}).encode()
        )

    def resolve(self, hub: LocalHub, parts: list[str]) -> None:
        name, revision, path = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        commit = self.commit_of(hub, name, revision)
        if commit is None:
            return
        data = hub.commits[name, commit].get(path)
        if data is None:
            self.send(404, b"Entry not found", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            self.send(200, data, {"X-Repo-Commit": commit, "ETag": f'"{_oid(data)}"', "Accept-Ranges": "bytes"})

    def receive(self, hub: LocalHub) -> None:
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        hub.requests.append(f"POST {path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            hub.commit(name, {".gitattributes": b""})
            self.send(200, json.dumps({"url": f"{hub.url}/{name}"}).encode())
            return
        if path == "/api/validate-yaml":
            self.send(200, b'{"errors": [], "warnings": []}')
            return
        owner, repository, kind, branch = path.removeprefix("/api/models/").split("/")
        name = f"{owner}/{repository}"
        if kind == "preupload":
            files = [{**asked, "uploadMode": "regular", "shouldIgnore": False} for asked in json.loads(body)["files"]]
            self.send(200, json.dumps({"files": files}).encode())
            return
        files = dict(hub.files(name, branch))
        for entry in map(json.loads, body.splitlines()):
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        commit = hub.commit(name, files, branch)
        self.send(200, json.dumps({"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit}).encode())

    def commit_of(self, hub: LocalHub, name: str, revision: str) -> str | None:
        commit = hub.branches.get((name, revision), revision)
        if (name, commit) in hub.commits:
            return commit
        known = any(repository == name for repository, _ in hub.commits)
        self.send(404, b'{"error": "Not found"}', {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})
        return None

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        """Say nothing."""


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
