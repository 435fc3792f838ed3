"""Which attention implementation a model runs under, for as long as a block of code lasts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from checkpoints.errors import UnsupportedArchitecture

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def attention_implementation(model: "PreTrainedModel", name: str) -> Iterator[None]:
    """Run a model under another attention implementation, then put its own back, part by part.

    Args:
        model: the model and the models inside it.
        name: as in ``attn_implementation=``, or one that was registered.

    Raises:
        UnsupportedArchitecture: the model does not use transformers' attention interface.
    """
    from transformers import PreTrainedModel

    if not model._can_set_attn_implementation():
        raise UnsupportedArchitecture(
            f"{type(model).__name__} does not use transformers' attention interface (ALiBi families such as "
            "BLOOM, MPT and Falcon have attention code of their own): its rows cannot be read"
        )
    parts = (part for part in model.modules() if isinstance(part, PreTrainedModel))
    configs = {id(part.config): part.config for part in parts}
    previous = [(config, config._attn_implementation) for config in configs.values()]
    try:
        model.set_attn_implementation(name)
        yield
    finally:
        for config, before in previous:
            config._attn_implementation = before
