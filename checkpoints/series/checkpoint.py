"""One checkpoint: where it is, its place in the run, and the hashes of what it holds."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from checkpoints.errors import DriftError, NotACheckpoint
from checkpoints.files.configs import ADAPTER_CONFIG, CONFIG_FILE, generation_settings, hash_config, read_json
from checkpoints.files.folder import (
    TokenizerSource,
    adapter_base,
    code_files,
    combine,
    hash_weights,
    loading_files,
    tokenizer_parts,
    tokenizer_source,
    weight_files,
)
from checkpoints.files.hashes import hash_file
from checkpoints.files.trust import allows_code
from checkpoints.model.architectures import attention_for
from checkpoints.placement import AUTO, Placement, Where
from checkpoints.tokenizers.identity import tokenizer_identity, tokenizer_key

if TYPE_CHECKING:
    from checkpoints.loading.load import LoadedModel
    from checkpoints.series.hub import HubRevision


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint in Hugging Face format.

    Attributes:
        path: its folder.
        name: as its series calls it (``"checkpoint-500"``).
        step: optimiser steps; None for a model outside any series whose folder does not say.
        tokens: tokens seen, where a name, a manifest or the trainer's state says so.
        stage: training stage (``"stage1"``, ``"pretrain"``), None where the run has none.
        branch: one of several continuations of the same parent (``"ingredient1"``).
        root: the series folder, where a tokenizer shared by all steps may lie.
        hub: the pinned hub revision it comes from; its `path` is filled when it is first needed.
    """

    path: Path
    name: str
    step: int | None = None
    tokens: int | None = None
    stage: str | None = None
    branch: str | None = None
    root: Path | None = field(default=None, repr=False, compare=False)
    hub: "HubRevision | None" = None

    @property
    def label(self) -> str:
        """Short unambiguous name for tables and axes: ``"stage2/ingredient1/500"``, ``"500"``."""
        if self.step is None:
            return self.name
        return "/".join(part for part in (self.stage, self.branch, str(self.step)) if part)

    @property
    def position(self) -> int | None:
        """Where it stands on its line: its step, or the tokens seen where the run counts those alone."""
        return self.step if self.step is not None else self.tokens

    @property
    def repo(self) -> str | None:
        """The hub repository that it comes from; None for a local one."""
        return None if self.hub is None else self.hub.repo

    def fetch(self) -> Path:
        """Make sure that its files are here, and return their folder; does nothing for a local checkpoint.

        Raises:
            NotACheckpoint: the hub has no such files.
            CorruptWeights: what arrived is not what the hub published.
            DriftError: the hub could not be reached.
        """
        return self.path if self.hub is None else self.hub.fetch()

    @property
    def size(self) -> int:
        """Bytes of the files that loading reads, an adapter's base included; on the hub none of them is fetched.

        Raises:
            NotACheckpoint, CorruptWeights: as for `files`.
        """
        if self.hub is not None:
            return sum(file.size for own in (self.hub, self.hub.base) if own is not None for file in own.files)
        return sum(file.stat().st_size for file in set(self.files))

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json; for an adapter, its base model's."""
        if self.hub is not None:
            (self.hub.base or self.hub).fetch_file(CONFIG_FILE)
        return read_json((self.base or self.path) / CONFIG_FILE)

    @property
    def base(self) -> Path | None:
        """The folder of the base model that this is an adapter on; None where it is a whole model."""
        if self.hub is not None:
            return None if self.hub.base is None else self.hub.base.path
        return adapter_base(self.path)

    def attention(self, asked: str = AUTO) -> str:
        """The attention implementation that it is loaded with; see `load`."""
        if asked != AUTO:
            return asked
        with suppress(NotACheckpoint):  # a GGUF file brings its own config
            return attention_for(self.config)
        return attention_for({})

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the weight files' content (of the file; or over names and hashes, an adapter's base included)."""
        own = hash_weights(weight_files(self.path)) if self.hub is None else self.hub.weights_hash
        if self.base is None:
            return own
        published = self.hub.base if self.hub is not None else None
        base = hash_weights(weight_files(self.base)) if published is None else published.weights_hash
        return combine({"base": base, "adapter": own, "config": self.config_hash})

    @property
    def config_hash(self) -> str:
        """SHA-256 of the config, library version and origin left out; with what else decides what is computed.

        That is what generation_config.json adds, and an adapter's config.
        """
        folder = self.base or self.path
        if self.hub is None and not (folder / CONFIG_FILE).exists():
            parts = {"base": hash_weights(weight_files(folder))}
        else:
            config = self.config
            added = generation_settings(folder, config)
            parts = {"base": hash_config(config), **({"generation": hash_config(added)} if added else {})}
        if self.base is not None:
            parts["adapter"] = hash_config(read_json(self.path / ADAPTER_CONFIG))
        return combine(parts)

    @property
    def tokenizer_hash(self) -> str | None:
        """SHA-256 of what the tokenizer does (`checkpoints.tokenizers.identity`); None where there is none.

        Of one that cannot be loaded, of its files.
        """
        source = self.tokenizer_source()
        if source is None:
            return None
        known = tokenizer_identity(source.folder, gguf=source.packed, code=allows_code(source.folder, self.repo))
        return known or combine({file.name: hash_file(file) for file in source.files})

    @property
    def tokenizer_key(self) -> str | None:
        """SHA-256 of its tokenizer's files; None where there is none. Where it is equal, so is `tokenizer_hash`.

        It is known without reading the tokenizer, for which transformers and torch are imported.
        """
        source = self.tokenizer_source()
        if source is None:
            return None
        return tokenizer_key(source.folder, gguf=source.packed, code=allows_code(source.folder, self.repo))

    def tokenizer_source(self) -> TokenizerSource | None:
        """Where its tokenizer is read from, fetched if need be; None where there is none."""
        if self.hub is not None:
            self.hub.fetch_tokenizer()
        return tokenizer_source(self.base or self.path, self.tokenizer_folders)

    @property
    def code_hash(self) -> str | None:
        """SHA-256 of the code that it brings, where `checkpoints.trust` allows that to run; None where it does not.

        On the hub the pinned commit says which code it is.
        """
        if not allows_code(self.path, self.repo):
            return None
        if self.hub is not None:
            return self.hub.commit
        folders = (self.path, self.base)
        found = {
            f"{place}/{path.relative_to(folder)}": hash_file(path)
            for place, folder in enumerate(folders)
            if folder is not None
            for path in code_files(folder)
        }
        return combine(found) if found else None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that takes part in loading it, those of an adapter's base and of its tokenizer included.

        Raises:
            NotACheckpoint, CorruptWeights: a folder holds no checkpoint, or no weights.
        """
        folders = [folder for folder in (self.path, self.base) if folder is not None]
        own = [file for folder in folders for file in loading_files(folder, code=allows_code(folder, self.repo))]
        return (*own, *tokenizer_parts(self.tokenizer_folders))

    @property
    def tokenizer_folders(self) -> tuple[Path, ...]:
        """Where its tokenizer may lie: its own folder, the series', an adapter's base, or the hub's main branch."""
        lender = None if self.hub is None or self.hub.lender is None else self.hub.lender.path
        return tuple(folder for folder in (self.path, self.root, self.base, lender) if folder is not None)

    def load(self, placement: Placement | None = None, **where: Unpack[Where]) -> "LoadedModel":
        """Load the model: frozen, in eval mode, without a network and without running code it brings.

        Such code runs only where ``$CIRCUIT_DRIFT_ALLOW_CODE`` names the checkpoint; see `checkpoints.files.trust`.

        Args:
            placement: device, dtype, attention implementation and device map; the CPU and float32 unless said.
            where: fields of a `Placement` by themselves: ``load(device="cuda", dtype="bfloat16")``.

        Raises:
            DriftError: no such device or dtype, or a map that leaves weights on no device.
            NotACheckpoint: the folder is no checkpoint.
            CorruptWeights: files missing, empty, truncated or corrupt, tensors not finite, or not covering
                the model.
            UnsupportedArchitecture: transformers has no such architecture, or it would need to run code.
        """
        from checkpoints.loading.load import load

        return load(self, Placement.of(placement, where, device="cpu"))

    @contextmanager
    def open(self, placement: Placement | None = None, **where: Unpack[Where]) -> Iterator["LoadedModel"]:
        """`load` for the length of a ``with`` block; the model is let go of at its end."""
        loaded = self.load(placement, **where)
        try:
            yield loaded
        finally:
            loaded.release()

    def _repr_html_(self) -> str:
        from html import escape

        facts = {"step": self.step, "tokens": self.tokens, "stage": self.stage, "branch": self.branch}
        shown = ", ".join(f"{name} {value:,}" if isinstance(value, int) else f"{name} {escape(value)}"
                          for name, value in facts.items() if value is not None)  # fmt: skip
        try:
            digest = f"<code>{self.weights_hash[:12]}</code>"
        except DriftError as error:
            digest = f"<em>{escape(str(error))}</em>"
        return f"<b>{escape(self.name)}</b> {shown}<br>weights {digest}"
