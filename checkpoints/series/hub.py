"""Checkpoints on the Hugging Face hub, reached through huggingface_hub alone.

Revisions are pinned to commit hashes when they are listed, so a branch that moves later changes nothing. Only the
files that loading needs are fetched, into the client's own cache, and each weight file is checked against the SHA-256
that the hub publishes for it. A revision that holds an adapter alone brings its base model along, which is pinned once
for all of a process.
"""

import fnmatch
import logging
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from checkpoints.errors import CorruptWeights, NotACheckpoint
from checkpoints.files.configs import ADAPTER_CONFIG, CONFIG_FILE, read_json
from checkpoints.files.folder import TOKENIZER_FILES, combine
from checkpoints.files.formats import Format, find_published, published_configs
from checkpoints.files.hashes import hash_file
from checkpoints.files.trust import allows_code
from checkpoints.series.hub_cache import is_on_its_way, repo_folder, take_out
from checkpoints.series.hub_client import (
    Unreached,
    explained,
    patiently,
    require_room,
)
from checkpoints.series.names import parse_name

logger = logging.getLogger(__name__)

MAIN = "main"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TOKENIZER = TOKENIZER_FILES | {CONFIG_FILE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the hub describes it; `digest` is its SHA-256, or its git blob id where it is kept in git."""

    name: str
    size: int
    sha256: str | None
    digest: str


@dataclass(frozen=True, slots=True)
class HubRevision:
    """One revision of a hub repository, pinned to its commit.

    Attributes:
        repo: ``"org/name"``.
        revision: the branch or tag as listed.
        commit: the commit hash it pointed to when it was listed.
    """

    repo: str
    revision: str
    commit: str

    @property
    def path(self) -> Path:
        """Where the client's cache keeps its files; `fetch` brings them there."""
        return repo_folder(self.repo) / "snapshots" / self.commit

    @property
    def files(self) -> tuple[HubFile, ...]:
        """The files that loading needs, with the sizes and hashes that the hub publishes; code only where allowed."""
        published = _published(self.repo, self.commit)
        code = allows_code(self.path, self.repo)
        small = _TOKENIZER | published_configs()
        kept = [file for file in published if file.name in small or (code and file.name.endswith(".py"))]
        return (*kept, *self.weights)

    @property
    def weights(self) -> tuple[HubFile, ...]:
        """Its weight files: safetensors where there are any, else `.bin`, else an adapter.

        Raises:
            NotACheckpoint: the revision holds none.
        """
        chosen = self._chosen[1]
        return tuple(file for file in _published(self.repo, self.commit) if file.name in chosen)

    @property
    def format(self) -> Format:
        """The format of its weight files.

        Raises:
            NotACheckpoint: the revision holds none.
        """
        return self._chosen[0]

    @property
    def _chosen(self) -> tuple[Format, tuple[str, ...]]:
        """The format of its weights and the names of their files."""
        names = [file.name for file in _published(self.repo, self.commit)]
        chosen = find_published(names)
        if chosen is None:
            has = ", ".join(names[:8]) or "nothing"
            raise NotACheckpoint(f"{self.repo}@{self.revision} holds no weights that can be loaded; it has {has}")
        return chosen

    @property
    def base(self) -> "HubRevision | None":
        """The model that this is an adapter on, as its config names it; None where it is a whole model.

        Raises:
            NotACheckpoint: the base is not on the hub, or an adapter itself.
        """
        if not self.format.is_adapter:
            return None
        about = read_json(self.fetch_file(ADAPTER_CONFIG))
        name, revision = about.get("base_model_name_or_path"), about.get("revision")
        if not HUB_ID.fullmatch(str(name)):
            raise NotACheckpoint(
                f"{self.repo}@{self.revision} is an adapter on {name!r}, which is no repository of the hub; fetch it "
                f"and name the folder of its base in {ADAPTER_CONFIG}"
            )
        return _base(str(name), str(revision or "main"))

    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Tensor name -> (dtype, shape) from the headers of its files, by range if not here; empty where hidden."""
        from huggingface_hub import HfApi

        tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
        entries = self.format.entries
        for file in self.weights if entries is not None else ():
            if entries is not None and (self.path / file.name).exists():
                tensors |= {name: (e.dtype, e.shape) for name, e in entries([self.path / file.name]).items()}
            else:
                with explained(self.repo, self.revision):
                    header = patiently(
                        partial(HfApi().parse_safetensors_file_metadata, self.repo, file.name, revision=self.commit)
                    )
                tensors |= {name: (info.dtype, tuple(info.shape)) for name, info in header.tensors.items()}
        return tensors

    @property
    def missing(self) -> tuple[HubFile, ...]:
        """Those of its files that are not in the cache."""
        return tuple(file for file in self.files if not (self.path / file.name).exists())

    @property
    def to_fetch(self) -> dict[str, int]:
        """Hash -> bytes of what fetching brings, an adapter's base included; what another revision has is here."""
        blobs = repo_folder(self.repo) / "blobs"
        own = {file.digest: file.size for file in self.missing if not (blobs / file.digest).exists()}
        return own if self.base is None else self.base.to_fetch | own

    @property
    def is_local(self) -> bool:
        """Whether all its files are in the cache already."""
        return not self.missing

    @property
    def weights_hash(self) -> str:
        """The hash that the weights have once fetched, known without fetching them."""
        if all(file.sha256 for file in self.weights):
            return combine({file.name: str(file.sha256) for file in self.weights})
        self.fetch()
        return combine({file.name: hash_file(self.path / file.name) for file in self.weights})

    def fetch(self, arrived: Callable[[str], None] | None = None) -> Path:
        """Fetch what is not in the cache yet, an adapter's base included; returns the folder.

        Args:
            arrived: is told the name of each of its own files that is here, and that nobody else was fetching.

        Raises:
            NotACheckpoint: the repository, revision or a file is not there.
            CorruptWeights: a file that arrived is not the one that was published.
            DriftError: the hub could not be reached, or the disk of its cache has no room.
        """
        require_room(sum(self.to_fetch.values()), f"{self.repo}@{self.revision}")
        for file in self.files:
            ours = arrived is not None and not is_on_its_way(self.path / file.name, file.digest)
            path = self.fetch_file(file.name)
            if arrived is not None and ours:
                arrived(file.name)
            if file.sha256 is not None and hash_file(path) != file.sha256:
                raise CorruptWeights(
                    f"{self.repo}@{self.revision}: {file.name} arrived with sha256 {hash_file(path)[:12]}, the hub "
                    f"publishes {file.sha256[:12]}; delete {path.resolve()} and fetch it again"
                )
        if self.base is not None:
            self.base.fetch()
        return self.path

    def fetch_file(self, name: str) -> Path:
        """Fetch one file; the client resumes a transfer that is cut."""
        from huggingface_hub import hf_hub_download

        if (self.path / name).exists():
            return self.path / name
        with explained(self.repo, self.revision):
            path = Path(patiently(lambda: hf_hub_download(self.repo, name, revision=self.commit)))
        self._remember()
        return path

    def fetch_tokenizer(self) -> None:
        """Fetch only the files that define the tokenizer, of an adapter's base or of `lender` too."""
        for file in _published(self.repo, self.commit):
            if file.name in _TOKENIZER:
                self.fetch_file(file.name)
        for other in () if self._has_tokenizer else (self.base, self.lender):
            if other is not None:
                other.fetch_tokenizer()

    @property
    def lender(self) -> "HubRevision | None":
        """The repository's main revision, where this one has no tokenizer of its own or of a base, and main has one."""
        if self.revision == MAIN or self._has_tokenizer or self.base is not None:
            return None
        main = _main(self.repo)
        return main if main is not None and main.commit != self.commit and main._has_tokenizer else None

    @property
    def _has_tokenizer(self) -> bool:
        return any(file.name in TOKENIZER_FILES for file in _published(self.repo, self.commit))

    def _remember(self) -> None:
        """Note in the client's cache which commit the revision is, as the client does where it is asked by name."""
        ref = repo_folder(self.repo) / "refs" / self.revision
        if self.revision == self.commit:
            return
        with suppress(OSError):  # a cache may be there to be read alone
            if not ref.exists() or ref.read_bytes() != self.commit.encode():
                ref.parent.mkdir(parents=True, exist_ok=True)
                ref.write_text(self.commit, encoding="ascii")

    def remove(self, arrived: Mapping[str, int], to_come: Collection[str]) -> None:
        """Take files out of the cache, their content too where no other revision has it, and what came in part.

        Args:
            arrived: name -> when it was put there, in nanoseconds; one that was put there at another time stays.
            to_come: names of those that may be here in part.

        Raises:
            TimeoutError: another process fetches one of them at this moment.
        """
        for file in _published(self.repo, self.commit):
            if file.name in to_come:
                take_out(self.path / file.name, file.digest, arrived.get(file.name))
        with suppress(OSError):  # other files are there
            self.path.rmdir()
            ref = repo_folder(self.repo) / "refs" / self.revision
            if ref.read_bytes() == self.commit.encode():
                ref.unlink()

    @property
    def mark(self) -> Path:
        """Where it is noted that some of its files are here for sweeps alone (`checkpoints.series.downloads`)."""
        return repo_folder(self.repo) / "circuit-drift" / self.commit


def list_revisions(repo: str, pattern: str) -> tuple[tuple[HubRevision, ...], tuple[str, ...]]:
    """The branches and tags of a repository that match a shell pattern: those that name training steps, and the others.

    Without a network they are those in the client's cache.

    Raises:
        NotACheckpoint: no such repository, or nothing that names a step matches.
        DriftError: the hub could not be reached, and nothing is cached.
    """
    commits = _commits(repo)
    matching = [name for name in commits if fnmatch.fnmatchcase(name, pattern)]
    found = [name for name in matching if parse_name(name) is not None]
    if not found:
        known = [name for name in commits if parse_name(name) is not None]
        shown = ", ".join(known[:5]) or ", ".join(list(commits)[:5]) or "none"
        raise NotACheckpoint(f"no revision of {repo} that names a step matches {pattern!r}; it has {shown}, ...")
    others = tuple(name for name in matching if name not in found)
    return tuple(HubRevision(repo, name, commits[name]) for name in found), others


def find_revision(repo: str, revision: str) -> HubRevision:
    """One revision by branch, tag or commit hash, pinned.

    Raises:
        NotACheckpoint: there is none; the message suggests near names.
        DriftError: the hub could not be reached.
    """
    import difflib

    commits = _commits(repo)
    if revision in commits:
        return HubRevision(repo, revision, commits[revision])
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return HubRevision(repo, revision, revision)
    near = ", ".join(difflib.get_close_matches(revision, commits, n=3, cutoff=0.5)) or ", ".join(list(commits)[:3])
    raise NotACheckpoint(f"{repo} has no revision {revision!r}; near it: {near} ({len(commits)} revisions)")


@lru_cache(maxsize=64)
def _base(repo: str, revision: str) -> HubRevision:
    """An adapter's base, pinned to the commit of its first mention: all adapters of a series get the same one."""
    found = find_revision(repo, revision)
    if found.format.is_adapter:
        raise NotACheckpoint(f"{repo}@{revision}, named as an adapter's base, is an adapter itself: merge it first")
    return found


@lru_cache(maxsize=64)
def _main(repo: str) -> HubRevision | None:
    """A repository's main revision, pinned to the commit of its first mention; None where there is none."""
    commit = _commits(repo).get(MAIN)
    if commit is None:
        return None
    logger.warning("%s: revisions without a tokenizer of their own are read with that of its main branch", repo)
    return HubRevision(repo, MAIN, commit)


def _commits(repo: str) -> dict[str, str]:
    """Branch or tag -> commit: as the hub says, or, where it cannot be asked, as the client's cache remembers."""
    from huggingface_hub import HfApi

    try:
        with explained(repo):
            refs = patiently(lambda: HfApi().list_repo_refs(repo))
    except Unreached as error:
        cached = _cached_commits(repo)
        if not cached:
            raise
        logger.warning("%s; the %d revisions of it in the client's cache are used", error, len(cached))
        return cached
    return {ref.name: ref.target_commit for ref in (*refs.tags, *refs.branches)}


_TOLD = 10


def _cached_commits(repo: str) -> dict[str, str]:
    """The revisions of which the client's cache holds files; those that it only names are told."""
    refs = repo_folder(repo) / "refs"
    files = sorted(path for path in refs.rglob("*") if path.is_file())
    named = {path.relative_to(refs).as_posix(): path.read_bytes()[:40].decode("ascii", "replace") for path in files}
    held = {
        name: commit
        for name, commit in named.items()
        if re.fullmatch(r"[0-9a-f]{40}", commit) and (repo_folder(repo) / "snapshots" / commit).is_dir()
    }
    lost = [name for name in named if name not in held]
    if held and lost:
        logger.warning("%s: left out %s%s: the client's cache names a commit of it and holds no file of that", repo,
                       ", ".join(lost[:_TOLD]), ", ..." if len(lost) > _TOLD else "")  # fmt: skip
    return held


@lru_cache(maxsize=4096)
def _published(repo: str, commit: str) -> tuple[HubFile, ...]:
    """The files of a commit; a commit never changes, so this is asked once."""
    from huggingface_hub import HfApi

    try:
        with explained(repo, commit):
            info = patiently(lambda: HfApi().model_info(repo, revision=commit, files_metadata=True))
    except Unreached:
        cached = _cached_files(repo_folder(repo) / "snapshots" / commit)
        if not cached:
            raise
        return cached
    return tuple(
        HubFile(
            name=file.rfilename,
            size=file.size or 0,
            sha256=file.lfs.sha256 if file.lfs else None,
            digest=(file.lfs.sha256 if file.lfs else file.blob_id) or "",
        )
        for file in info.siblings or ()
    )


def _cached_files(snapshot: Path) -> tuple[HubFile, ...]:
    """The files of a snapshot in the client's cache, which names each blob by the hash that the hub publishes."""
    found = []
    for path in sorted(snapshot.rglob("*")):
        if path.is_file():
            blob = path.resolve().name if path.is_symlink() else ""
            sha256 = blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None
            digest = blob if re.fullmatch(r"[0-9a-f]{40,64}", blob) else hash_file(path)
            found.append(HubFile(path.relative_to(snapshot).as_posix(), path.stat().st_size, sha256, digest))
    return tuple(found)
