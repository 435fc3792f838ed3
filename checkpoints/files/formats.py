"""The formats of model files, one row each; everything else asks this table.

A row says how its files are found in a folder and in a hub listing, how they are checked from headers and sizes, what
they say of their tensors, which file describes the model, which function builds it, and which one, if any, puts the
files straight into a live model. What is hashed is the same for all: every byte of every file that `files` names. Rows
stand in the order in which transformers would choose; the first that is in a folder is taken.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path, PurePath

from checkpoints.errors import CorruptWeights, NotACheckpoint
from checkpoints.files.configs import ADAPTER_CONFIG, CONFIG_FILE, GENERATION_CONFIG, read_json
from checkpoints.files.gguf import gguf_entries
from checkpoints.files.headers import TensorEntry, safetensors_entries
from checkpoints.files.limits import check_not_empty, check_pickles, count_pickled
from checkpoints.results.disk import can_be

METADATA = ".metadata"
SHARDS = "*.distcp"
_FSDP = ("", "pytorch_model_fsdp_0", "model")


@dataclass(frozen=True, slots=True)
class Format:
    """One format of model files.

    Attributes:
        name: what messages call it.
        names: the files that are looked for, in words of a shell.
        endings: what names of its files end with.
        find: the file by which it is known to be in a folder (its one file, its index); None where there is none.
        files: the weight files that one stands for, whether or not they are there: what is hashed.
        loader: ``"module:function"`` that builds the model from a checkpoint, its `WeightFiles` and a placement.
        config: the file that describes the model; None where the weights do, and bring the tokenizer too.
        entries: the tensors by name, from headers that promise every byte; None where the format hides them.
        check: without `entries`, refuses files that are not whole, with nothing loaded.
        count: without `entries`, how many tensors its files hold at most; None where the loader asks their metadata.
        tensors: ``"module:function"`` that reads the tensors for a live model; None where it takes a fresh load.
        published: the names of its files on the hub; None where none are looked for there.
    """

    name: str
    names: tuple[str, ...]
    endings: tuple[str, ...]
    find: Callable[[Path], Path | None]
    files: Callable[[Path], tuple[Path, ...]]
    loader: str
    config: str | None = CONFIG_FILE
    entries: Callable[[Sequence[Path]], Mapping[str, TensorEntry]] | None = None
    check: Callable[[Sequence[Path]], None] | None = None
    count: Callable[[Sequence[Path]], int] | None = None
    tensors: str | None = None
    published: re.Pattern[str] | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether its files are put upon those of a base model."""
        return self.config == ADAPTER_CONFIG

    @property
    def configs(self) -> tuple[str, ...]:
        """The JSON beside the weights that takes part in building the model."""
        if self.config is None:
            return ()
        return (CONFIG_FILE, GENERATION_CONFIG) if self.config == CONFIG_FILE else (self.config,)

    @property
    def indexes(self) -> tuple[str, ...]:
        """The small files that name its shards."""
        return tuple(name for name in self.names if name.endswith(".index.json"))


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of one folder, whose headers are read once.

    Attributes:
        format: what they are.
        found: the file by which they were found.
        files: what holds the weights.
    """

    format: Format
    found: Path
    files: tuple[Path, ...]

    @property
    def index(self) -> Path | None:
        """The file that names its shards; None where the files were found by themselves."""
        return None if self.found in self.files else self.found

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files)

    def check(self) -> None:
        """Refuse files that do not hold every byte that they promise.

        Raises:
            CorruptWeights: a file is missing, empty, truncated, or not of its format.
        """
        self.entries()
        if self.format.check is not None:
            self.format.check(self.files)

    def entries(self) -> Mapping[str, TensorEntry]:
        """The tensors by name, from headers alone; empty where the format hides them.

        Raises:
            CorruptWeights: a file is missing or damaged, or lacks a tensor that an index promises.
        """
        return self._entries

    @cached_property
    def _entries(self) -> Mapping[str, TensorEntry]:
        if self.index is not None:
            _require_shards(self.files, self.index)
        if self.format.entries is None:
            return {}
        entries = self.format.entries(self.files)
        if self.index is not None:
            _require_promised(entries, self.index)
        return entries

    def count(self) -> int | None:
        """How many tensors the files hold at most; None where only the loader can tell."""
        if self.format.entries is not None:
            return len(self.entries())
        return None if self.format.count is None else self.format.count(self.files)

    def values(self) -> int:
        """How many numbers the files hold, at most."""
        return self.size if self.format.entries is None else sum(prod(entry.shape) for entry in self.entries().values())


def find_weights(folder: Path) -> WeightFiles:
    """The weights of a checkpoint folder: those of the first format of the table that is there.

    Raises:
        NotACheckpoint: no such folder, or no config and no weights that describe themselves in it.
        CorruptWeights: a checkpoint without weight files, or with an index that names none.
    """
    if not folder.is_dir():
        raise NotACheckpoint(f"{folder} is no checkpoint: there is no such folder")
    for row in TABLE:
        found = row.find(folder)
        if found is not None:
            return WeightFiles(row, found, row.files(found))
    for config in _configs():
        if (folder / config).exists():
            names = [name for row in TABLE for name in row.names]
            raise CorruptWeights(
                f"{folder} has a {config} but no weights: looked for {', '.join(names[:-1])} and {names[-1]}"
            )
    raise NotACheckpoint(f"{folder} is no checkpoint: looked for {looked_for()}")


def find_published(names: Sequence[str]) -> tuple[Format, tuple[str, ...]] | None:
    """The format of a hub listing and its weight files: one whole file before shards; None where there is none."""
    for row in TABLE:
        found = [] if row.published is None else [name for name in names if row.published.fullmatch(name)]
        whole = [name for name in found if "-of-" not in name]
        if found:
            return row, tuple(whole or found)
    return None


def published_configs() -> frozenset[str]:
    """The small files of the hub that loading needs beside weights and tokenizer."""
    return frozenset(name for row in TABLE if row.published for name in (*row.configs, *row.indexes))


def has_whole(folder: Path) -> bool:
    """Whether files lie in a folder that are taken before an adapter's."""
    before = TABLE[: next(place for place, row in enumerate(TABLE) if row.is_adapter)]
    return any(row.find(folder) is not None for row in before)


def packed_file(folder: Path) -> Path | None:
    """The one file in a folder that brings config and tokenizer in itself; None where there is none, or several."""
    for row in TABLE:
        found = row.find(folder) if row.config is None else None
        if found is not None:
            with suppress(NotACheckpoint):
                return row.files(found)[0]
    return None


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like one checkpoint: a config, an adapter's config, or one file that needs none."""
    return any((folder / config).exists() for config in _configs()) or packed_file(folder) is not None


def is_weights_name(name: str) -> bool:
    """Whether a file is called like one that holds weights."""
    return PurePath(name).suffix in {ending for row in TABLE for ending in row.endings}


def looked_for() -> str:
    """What a checkpoint's folder holds, in words: each config with its weights, and what needs none."""
    with_config = [
        f"{config} with {' or '.join(name for row in TABLE if row.config == config for name in row.names)}"
        for config in _configs()
    ]
    return ", ".join([*with_config, *(f"one {name}" for row in TABLE if row.config is None for name in row.names)])


def _configs() -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.config for row in TABLE if row.config is not None))


def _require_shards(files: Sequence[Path], index: Path) -> None:
    """Refuse an index some of whose files are not there.

    Raises:
        CorruptWeights: names the first of them.
    """
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise CorruptWeights(
            f"{files[0].parent} lacks {len(missing)} of {len(files)} weight files: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''} (named by {index.name}); restore them"
        )


def _require_promised(entries: Mapping[str, TensorEntry], index: Path) -> None:
    """Refuse shards that lack a tensor which their index promises.

    Raises:
        CorruptWeights: names the shard and the tensor.
    """
    for name, shard in read_json(index)["weight_map"].items():
        if name not in entries or entries[name].file.name != shard:
            raise CorruptWeights(f"{index.parent / shard} lacks the tensor {name!r} that {index.name} promises")


def _first(*names: str) -> Callable[[Path], Path | None]:
    """Finds the first of some files that a folder has."""
    return lambda folder: next((folder / name for name in names if (folder / name).exists()), None)


def _one_or_shards(found: Path) -> tuple[Path, ...]:
    """One file, or the shards that an index names."""
    if found.suffix != ".json":
        return (found,)
    mapping = read_json(found).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise CorruptWeights(f"{found} names no shards (no weight_map); restore the file")
    names = sorted({str(name) for name in mapping.values()})
    outside = [name for name in names if PurePath(name).name != name or not can_be(found.parent / name)]
    if outside:
        raise CorruptWeights(f"{found} names a shard outside its folder, or no name: {outside[0]!r:.200}")
    return tuple(found.parent / name for name in names)


def _distributed_files(metadata: Path) -> tuple[Path, ...]:
    """The `.distcp` files of a folder, and last the metadata, which decides what each of their bytes is."""
    folder = metadata.parent
    files = tuple(sorted(folder.glob(SHARDS)))
    if not files:
        raise CorruptWeights(
            f"{folder} has the metadata of a distributed checkpoint, but no .distcp file; restore them"
        )
    return (*files, metadata)


def _ggufs(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.glob("*.gguf")))


def _only_gguf(found: Path) -> tuple[Path, ...]:
    files = tuple(_ggufs(found.parent))
    if len(files) > 1:
        raise NotACheckpoint(
            f"{found.parent} holds {len(files)} GGUF files ({files[0].name}, {files[1].name}, ...): keep one per folder"
        )
    return (found,)


_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER_WEIGHTS = "adapter_model.safetensors"

TABLE: tuple[Format, ...] = (
    Format(
        "safetensors",
        names=_SAFETENSORS,
        endings=(".safetensors",),
        find=_first(*_SAFETENSORS),
        files=_one_or_shards,
        entries=safetensors_entries,
        loader="checkpoints.loading.build:build_whole",
        tensors="checkpoints.loading.stream:safetensors_tensors",
        published=re.compile(r"model(-\d+-of-\d+)?\.safetensors"),
    ),
    Format(
        "PyTorch",
        names=_PICKLES,
        endings=(".bin", ".pt", ".pth", ".ckpt"),
        find=_first(*_PICKLES),
        files=_one_or_shards,
        check=check_pickles,
        count=count_pickled,
        loader="checkpoints.loading.build:build_whole",
        published=re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin"),
    ),
    Format(
        "adapter",
        names=(ADAPTER_WEIGHTS,),
        endings=(".safetensors",),
        find=_first(ADAPTER_WEIGHTS),
        files=_one_or_shards,
        entries=safetensors_entries,
        config=ADAPTER_CONFIG,
        loader="checkpoints.loading.build:build_adapted",
        published=re.compile(re.escape(ADAPTER_WEIGHTS)),
    ),
    Format(
        "torch distributed",
        names=(SHARDS,),
        endings=(".distcp",),
        find=_first(*(str(PurePath(place, METADATA)) for place in _FSDP)),
        files=_distributed_files,
        check=check_not_empty,
        loader="checkpoints.loading.build:build_distributed",
    ),
    Format(
        "GGUF",
        names=("*.gguf",),
        endings=(".gguf",),
        find=lambda folder: next(_ggufs(folder), None),
        files=_only_gguf,
        entries=gguf_entries,
        config=None,
        loader="checkpoints.loading.build:build_gguf",
    ),
)
