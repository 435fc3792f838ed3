"""Perplexity of named corpora, and of their tokens that need a long context (LongPPL), over training."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from checkpoints import DriftError, open_checkpoint
from checkpoints.errors import BadPrompt, CheckpointMismatch
from checkpoints.files.reading import read_records, read_text
from checkpoints.loading.load import LoadedModel
from circuit_drift.measures.base import Asked, Measure
from circuit_drift.measures.pairs.beside import BesidePairing
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.page.page import Section
from circuit_drift.record.record import RunRecord
from heads.niah.corpora import CorpusLoss

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Windows = dict[str, list[tuple[int, ...]]]

USAGE = "corpora are named: say corpora:NAME=FILE for each, or corpora:FOLDER with a file or folder of texts for each"
JUDGE = "judge="
_JUDGED: dict[str, "tuple[Windows, NDArray[np.bool_]]"] = {}
"""The last judgement of this process, under what it was made from."""


@dataclass(frozen=True)
class CorporaMeasure(Measure):
    """Loss of every token of each corpus: ``run --measures corpora:FOLDER``, or ``corpora:wiki=wiki.jsonl``.

    A corpus is a text file (one document), JSON lines with a ``text`` each, or a folder of such files. LongPPL takes
    its key tokens from a judge, a checkpoint named by ``corpora:judge=MODEL``. Where none is named, the last measured
    checkpoint judges, so that LongPPL is a number of the run and not of one result (`along`).

    Attributes:
        corpora: (name, documents) of each.
        judge: a checkpoint's folder or ``SERIES@STEP``, of the same tokenizer; None = the last measured checkpoint.
        length: tokens of a window; the run's length.
        short_context: tokens of the short context; an eighth of it.
        stride: tokens that share one; a quarter of that.
        windows: of each corpus, at most.
    """

    corpora: tuple[tuple[str, tuple[str, ...]], ...]
    length: int
    short_context: int
    stride: int
    windows: int = 16
    judge: str | None = None

    name = "corpora"
    result = CorpusLoss
    pairing = BesidePairing("corpora", "Corpora")

    @classmethod
    def build(cls, asked: Asked) -> Self:
        """Over the files named, in windows of the run's length."""
        found: dict[str, tuple[str, ...]] = {}
        judges = [each.removeprefix(JUDGE) for each in asked.arguments if each.startswith(JUDGE)]
        if len(judges) > 1:
            raise DriftError(f"LongPPL has one judge; got {' and '.join(judges)}")
        for judge in judges:
            open_checkpoint(judge)
        for argument in (each for each in asked.arguments if not each.startswith(JUDGE)):
            name, equals, path = argument.partition("=")
            parts = [(name, Path(path))] if equals else _inside(Path(argument))
            for own, place in parts:
                if own in found:
                    raise DriftError(f"two corpora are called {own}; name one of them otherwise with corpora:NAME=FILE")
                found[own] = _documents(place)
        if not found:
            raise DriftError(USAGE)
        length = asked.prompts.needles.length
        short = max(1, length // 8)
        return cls(tuple(found.items()), length, short, max(1, short // 4), judge=next(iter(judges), None))

    def params(self) -> dict[str, Any]:
        """The texts, how they are cut, and who judges."""
        told = {name: hashlib.sha256(json.dumps(texts).encode()).hexdigest() for name, texts in self.corpora}
        how = {name: getattr(self, name) for name in ("length", "short_context", "stride", "windows")}
        judge = {} if self.judge is None else {"judge": open_checkpoint(self.judge).weights_hash}
        return {"corpora": told, **how, **judge}

    @property
    def origins(self) -> dict[str, str]:
        """The corpora's names, and the judge's."""
        judge = {} if self.judge is None else {"judge of LongPPL": self.judge}
        return {"corpora": ", ".join(name for name, _ in self.corpora), **judge}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> CorpusLoss:
        """Read every window twice: whole, and stride by stride behind its short context.

        Raises:
            CheckpointMismatch: the judge reads other tokens.
        """
        found = self._read(loaded)
        if self.judge is None:
            return found
        windows, judged = self._judgement(self.judge, loaded)
        if windows != self._windows(loaded):
            raise CheckpointMismatch(
                f"the judge {self.judge} cuts the corpora into other tokens than this checkpoint: name a judge with "
                "the same tokenizer, or none"
            )
        judge = {"name": self.judge, "weights": open_checkpoint(self.judge).weights_hash}
        return replace(found, judged=judged, meta={**found.meta, "judge": judge})

    def _judgement(self, judge: str, loaded: LoadedModel) -> "tuple[Windows, NDArray[np.bool_]]":
        """What the judge read, and its key tokens; read once for all checkpoints of a process."""
        told = json.dumps([self.params(), loaded.dtype, str(loaded.model.device)])
        if told not in _JUDGED:
            _JUDGED.clear()
            model = open_checkpoint(judge).load(device=str(loaded.model.device), dtype=loaded.dtype)
            _JUDGED[told] = self._windows(model), self._read(model).key_tokens()
        return _JUDGED[told]

    def _windows(self, loaded: LoadedModel) -> "Windows":
        from heads.niah.corpus_loss import windows_of

        return windows_of(tokenizer_of(loaded), dict(self.corpora), length=self.length, windows=self.windows)

    def _read(self, loaded: LoadedModel) -> CorpusLoss:
        from heads.niah.corpus_loss import corpus_loss

        return corpus_loss(
            loaded.model,
            tokenizer_of(loaded),
            dict(self.corpora),
            length=self.length,
            short=self.short_context,
            stride=self.stride,
            windows=self.windows,
        )

    @classmethod
    def reading(cls, result: CorpusLoss) -> dict[str, float]:
        """Perplexity of every corpus."""
        return {f"ppl_{name}": result.ppl(name).value for name in result.names}

    @classmethod
    def along(cls, run: RunRecord) -> dict[str, list[float]]:
        """LongPPL of every corpus, by the judge's key tokens, else by those of the last measured checkpoint."""
        there: list[CorpusLoss | None] = [point.results.get(cls.name) for point in run]
        last = [result for result in there if result is not None][-1]
        key = last.chosen
        alike = [result if result is not None and result.same_text(last) else None for result in there]
        return {
            f"longppl_{name}": [
                float("nan") if result is None else result.long_ppl(name, key).value for result in alike
            ]
            for name in last.names
        }

    @classmethod
    def sections(cls, run: RunRecord, table: "pd.DataFrame") -> Iterator[Section]:
        """Perplexity by corpus with its fit, and LongPPL beside it."""
        from circuit_drift.measures.figures import corpora as figures

        last = [point.results[cls.name] for point in run if cls.name in point.results][-1]
        read = f"windows of {last.meta['length']:,} tokens; corpora: {', '.join(last.names)}."
        frame = figures.fits_frame(run)
        yield Section(
            cls.name,
            "Corpus perplexity over training",
            text="Perplexity by corpus against training data N, the fit PPL = A log N + B, and what it leaves over.",
            figure=figures.fits_figure(run, frame),
            caption=f"As in arXiv 2604.02650, figure 6; checkpoints at N = 0 are left out of the fit; {read}",
            frame=frame,
        )
        columns = cls.along(run)
        yield Section(
            "longppl",
            "LongPPL: perplexity of the tokens that need the long context",
            figure=figures.long_figure(run),
            caption=f"Key tokens (arXiv 2410.23771): a context of {last.meta['short']:,} to "
            f"{last.meta['short'] + last.meta['stride'] - 1:,} tokens costs more than 2 nats over the long one, which "
            f"leaves less than 2; judged by {figures.judge_of(run)}, for all checkpoints; {read}",
            frame=table[["step", *(name for name in columns if name in table)]],
        )


def _inside(folder: Path) -> list[tuple[str, Path]]:
    """The corpora of a folder, named by their files or folders; a file alone is one, named by itself."""
    if folder.is_file():
        return [(folder.stem, folder)]
    if not folder.is_dir():
        raise DriftError(f"there is no file or folder {folder} to read corpora from; {USAGE}")
    return [(path.stem, path) for path in sorted(folder.iterdir()) if not path.name.startswith(".")]


def _documents(path: Path) -> tuple[str, ...]:
    """The texts of a file or of all files of a folder.

    Raises:
        BadPrompt: nothing to read there, or a line without a text.
    """
    if path.is_dir():
        return tuple(text for file in sorted(path.rglob("*")) if file.is_file() for text in _documents(file))
    if path.suffix not in (".jsonl", ".json"):
        return (read_text(path, "the corpus"),)
    texts = []
    for record in read_records(path, "documents"):
        text = record.value.get("text") if isinstance(record.value, dict) else None
        if not isinstance(text, str):
            why = record.problem or "it needs an object with a text"
            raise BadPrompt(f"{path}, {record.where} is no document: {why}")
        texts.append(text)
    return tuple(texts)
