"""A local stand-in for the hub's HTTP API, for the real client to talk to over 127.0.0.1.

It serves folders as revisions of repositories (refs, file metadata with SHA-256, whole and ranged downloads), counts
what it was asked for, and can be told to fail: answer 429 or 500, cut a connection in mid-file, or serve other bytes.
"""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REPO = "org/run"
_LFS = (".safetensors", ".bin")


class Hub:
    """The state behind the server: revisions, planned faults, and what was asked."""

    def __init__(self, revisions: dict[str, Path], others: dict[str, dict[str, Path]] | None = None) -> None:
        self.folders: dict[str, Path] = {}
        self.refs = {repo: self.commit(repo, of) for repo, of in {REPO: revisions, **(others or {})}.items()}
        self.commits = self.refs[REPO]
        self.asked: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.faults: list[tuple[str, str]] = []

    def commit(self, repo: str, revisions: dict[str, Path]) -> dict[str, str]:
        """Give each revision of a repository its commit hash."""
        commits = {name: hashlib.sha1(f"{repo}@{name}".encode()).hexdigest() for name in revisions}
        self.folders |= {commits[name]: folder for name, folder in revisions.items()}
        return commits

    def fail_once(self, pattern: str, how: str) -> None:
        """Make the next request whose method and path match fail: ``"429"``, ``"500"``, ``"cut"``, ``"flip"``."""
        self.faults.append((pattern, how))

    def take_fault(self, request: str) -> str | None:
        for fault in self.faults:
            if re.search(fault[0], request):
                self.faults.remove(fault)
                return fault[1]
        return None


def metadata(path: Path) -> dict:
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry = {"rfilename": path.name, "size": len(content), "blobId": blob}
    if path.suffix in _LFS:
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
    return entry


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.route()

    def do_HEAD(self):
        self.route()

    def route(self):
        path = self.path.partition("?")[0]
        request = f"{self.command} {path}"
        self.hub.asked[request] += 1
        fault = self.hub.take_fault(request)
        if fault in ("429", "500"):
            return self.answer(int(fault), {"error": "later"}, {"Retry-After": "0"})
        refs = re.fullmatch(r"/api/models/(\w+/\w+)/refs", path)
        if refs and refs[1] in self.hub.refs:
            commits = self.hub.refs[refs[1]]
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in commits.items()]
            return self.answer(200, {"branches": branches, "tags": [], "converts": []})
        info = re.fullmatch(r"/api/models/(\w+/\w+)/revision/(\w+)", path)
        if info and info[2] in self.hub.refs.get(info[1], {}).values():
            files = sorted(file for file in self.hub.folders[info[2]].iterdir() if file.is_file())
            siblings = [metadata(file) for file in files]
            return self.answer(200, {"id": info[1], "modelId": info[1], "sha": info[2], "siblings": siblings})
        file = re.fullmatch(r"/(\w+/\w+)/resolve/(\w+)/(.+)", path)
        if file and file[2] in self.hub.refs.get(file[1], {}).values():
            content = self.hub.folders[file[2]] / file[3]
            if content.exists():
                return self.send_file(file[2], content, fault)
        code = "RevisionNotFound" if info or file else "RepoNotFound"
        return self.answer(404, {"error": "not found"}, {"X-Error-Code": code})

    def answer(self, status, value, headers=()):
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, content in dict(headers).items():
            self.send_header(name, content)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, commit, path, fault):
        content, about = path.read_bytes(), metadata(path)
        if fault == "flip":
            content = bytes([content[0] ^ 1]) + content[1:]
        asked = self.headers.get("Range")
        start, stop = 0, len(content)
        if asked:
            self.hub.ranges.append(asked)
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", asked).groups()
            start, stop = int(first), min(stop, int(last) + 1) if last else stop
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        etag = about["lfs"]["sha256"] if "lfs" in about else about["blobId"]
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut":
            self.wfile.write(content[start : start + (stop - start) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(content[start:stop])


def serve(hub: Hub) -> ThreadingHTTPServer:
    """Start serving in a thread; stop with ``shutdown`` and ``server_close``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


@contextmanager
def connected(hub: Hub, cache: Path) -> Iterator[None]:
    """Serve a hub to this process's real client, which starts with an empty cache."""
    from huggingface_hub import close_session, constants

    from checkpoints.series import hub as client

    server = serve(hub)
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    caches = (client._published, client._base, client._main)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", endpoint)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        for known in caches:
            known.cache_clear()
        close_session()
        yield
        close_session()
        server.shutdown()
        server.server_close()
        for known in caches:
            known.cache_clear()
