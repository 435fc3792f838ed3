"""A local stand-in for the hub's HTTP API, for the real client to talk to over 127.0.0.1.

It serves folders as revisions of one repository (refs, file metadata with SHA-256, whole and ranged downloads), counts
what it was asked for, and can be told to fail: answer 429 or 500, cut a connection in mid-file, or serve other bytes.
"""

import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPO = "org/run"
_LFS = (".safetensors", ".bin")


class Hub:
    """The state behind the server: revisions, planned faults, and what was asked."""

    def __init__(self, revisions: dict[str, Path]) -> None:
        self.folders = {hashlib.sha1(name.encode()).hexdigest(): path for name, path in revisions.items()}
        self.commits = {name: hashlib.sha1(name.encode()).hexdigest() for name in revisions}
        self.asked: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.faults: list[tuple[str, str]] = []

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
        if path == f"/api/models/{REPO}/refs":
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in self.hub.commits.items()]
            return self.answer(200, {"branches": branches, "tags": [], "converts": []})
        info = re.fullmatch(rf"/api/models/{REPO}/revision/(\w+)", path)
        if info and info[1] in self.hub.folders:
            files = sorted(file for file in self.hub.folders[info[1]].iterdir() if file.is_file())
            siblings = [metadata(file) for file in files]
            return self.answer(200, {"id": REPO, "modelId": REPO, "sha": info[1], "siblings": siblings})
        file = re.fullmatch(rf"/{REPO}/resolve/(\w+)/(.+)", path)
        if file and file[1] in self.hub.folders and (self.hub.folders[file[1]] / file[2]).exists():
            return self.send_file(file[1], self.hub.folders[file[1]] / file[2], fault)
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
