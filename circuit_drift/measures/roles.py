"""Roles of heads: mover, relation, previous-token, induction."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from checkpoints.loading.load import LoadedModel
from checkpoints.tokenizers.framing import front_ids
from circuit_drift.measures.base import Asked, Measure
from circuit_drift.measures.needles import needle_prompts_of
from circuit_drift.measures.pairs.roles import ROLES_CAPTION, RolePairing
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.page.page import Section
from circuit_drift.prompts import FactSource, NeedleSource
from circuit_drift.record.record import RunRecord
from circuits.facts.facts import FactSet
from circuits.roles.roles import HeadRoles
from heads.prompts.needles import NeedleSet

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class RolesMeasure(Measure):
    """What heads are known for: where they read what they write, and how far they look back or repeat.

    What is repeated is drawn from the tokens of the needles' answers, which the model is asked to copy, each block
    closed as a needle is; where those are too few, from all tokens of needles and facts.
    """

    source: FactSource
    needles: NeedleSource
    block: int = 24
    count: int = 16

    name = "roles"
    chapter = "Circuit"
    version = 2
    result = HeadRoles
    pairing = RolePairing()

    @classmethod
    def build(cls, asked: Asked) -> Self:
        """Over the run's facts and needles."""
        cls.refuse_arguments(asked)
        return cls(asked.prompts.facts, asked.prompts.needles)

    def params(self) -> dict[str, Any]:
        """Prompts, and the repeated random tokens."""
        prompts = {"prompts": self.source.hash, "needles": self.needles.hash}
        return {**prompts, "block": self.block, "count": self.count}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> "HeadRoles":
        """Split every head's contribution by source; score previous-token and induction on repeated tokens."""
        from circuits.roles.measure import head_roles
        from heads.detect.repeats import repeat_scores

        tokenizer = tokenizer_of(loaded)
        facts = self.source.tokenized(tokenizer)
        roles = head_roles(loaded.model, facts)
        tokens, end = _repeated(tokenizer, needle_prompts_of(tokenizer, self.needles), facts, self.block)
        repeated = repeat_scores(
            loaded.model,
            block=min(self.block, len(tokens)),
            repeats=2,
            count=self.count,
            tokens=tokens,
            end=end,
            front=front_ids(tokenizer),
        )
        for role, detector in (("previous-token", "previous_token"), ("induction", "induction")):
            roles = roles.with_scores(role, repeated.detector(detector))
        told = {name: repeated.meta[name] for name in ("block", "drawn_from", "end", "front")}
        return replace(roles, meta={**roles.meta, "repeats": told})

    @property
    def origins(self) -> dict[str, str]:
        """Of the facts and the needles."""
        return {"facts": self.source.origin, "needles": self.needles.origin}

    @classmethod
    def sections(cls, run: RunRecord, table: "pd.DataFrame") -> Iterator[Section]:
        """What the circuits' heads are, over training, where circuits were measured too."""
        from circuit_drift.measures.figures.roles import roles_figure, roles_frame

        if any(point.circuit is not None and point.roles is not None for point in run):
            told = roles_frame(run)
            yield Section(
                "roles",
                "Roles of the circuit's heads",
                text="What kind of head the circuit is made of: movers carry the subject over, relation heads the "
                "rest.",
                figure=roles_figure(run, told),
                caption=ROLES_CAPTION,
                frame=told,
            )


def _repeated(
    tokenizer: "PreTrainedTokenizerBase", needles: "NeedleSet", facts: "FactSet", block: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens that blocks are drawn from, and those that close a block."""
    from heads.detect.repeats import seen_tokens

    tokens = seen_tokens(tokenizer, [prompt.answer for prompt in needles])
    if len(tokens) < block:
        asked = (*facts.clean, *facts.corrupt, *facts.answer, *facts.wrong)
        return seen_tokens(tokenizer, [*asked, *(prompt.ids for prompt in needles)]), ()
    ends = {prompt.ids[prompt.answer_span[1] : prompt.needle_span[1]] for prompt in needles}
    return tokens, ends.pop() if len(ends) == 1 else ()
