"""Prompts of the needles in tokens: long enough for a vocabulary that cuts words small, and as asked otherwise."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from circuit_drift.measures.needles import needle_prompts_of
from circuit_drift.prompts import prompts_for
from heads.prompts.building import least_length


@pytest.fixture(scope="module")
def letters() -> PreTrainedTokenizerFast:
    """One token for each letter."""
    alphabet = {letter: i for i, letter in enumerate(["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(alphabet, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")


def test_needles_that_the_usual_length_cannot_hold_get_longer_prompts_and_it_is_said(letters, tmp_path, caplog):
    source = prompts_for(tmp_path).needles
    least = least_length(letters, source.needles)
    assert least > 256
    prompts = needle_prompts_of(letters, source)
    assert (len(prompts), prompts.refused) == (5 * len(source.needles), ())
    assert 1.25 * least <= prompts.length < 1.25 * least + 8 and prompts.length % 8 == 0
    assert f"take up to {least} tokens, so prompts have {prompts.length} tokens instead of 256" in caplog.text


def test_a_length_that_was_asked_for_stays_and_its_refusals_name_one_that_fits(letters, tmp_path):
    prompts = needle_prompts_of(letters, prompts_for(tmp_path, length=128).needles)
    assert (len(prompts), prompts.length) == (0, 128)
    assert "raise the length of 128" in prompts.refused[0][1]
