"""A series of three tiny Llama checkpoints with a word-level tokenizer, its own needles, haystack and facts."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

NAMES = [f"name{i}" for i in range(8)]
PLACES = [f"place{i}" for i in range(8)]
CODES = [f"code{i}" for i in range(40)]
WORDS = [
    *["the", "a", "code", "of", "is", "was", "born", "in", "what", "?", "."],
    *["river", "bird", "stone", "walks", "sees", "and", "<s>", "</s>", "<unk>"],
]


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*WORDS, *NAMES, *PLACES, *CODES])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    front = [("<s>", vocabulary["<s>"])]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=front)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    ).save_pretrained(folder)


def save_model(folder: Path, seed: int, hidden_size: int = 32) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS) + len(NAMES) + len(PLACES) + len(CODES),
        hidden_size=hidden_size,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(folder)


def save_prompts(folder: Path) -> None:
    needles = []
    for i in range(6):
        codes = " ".join(CODES[5 * i : 5 * i + 5])
        needles.append(
            {
                "needle": f"the code of name{i} is {codes} .",
                "answer": codes,
                "question": f"what is the code of name{i} ? the code of name{i} is",
            }
        )
    facts = [
        {
            "clean": f"name{i} was born in",
            "corrupt": f"name{(i + 1) % 8} was born in",
            "answer": f"place{i}",
            "wrong": f"place{(i + 1) % 8}",
            "labels": {"class": "even" if i % 2 == 0 else "odd"},
        }
        for i in range(8)
    ]
    _write_lines(folder / "needles.jsonl", needles)
    _write_lines(folder / "facts.jsonl", facts)
    (folder / "haystack.txt").write_text("the river walks . a bird sees the stone and the river . " * 20)


def _write_lines(path: Path, records: Sequence[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="session")
def tiny_series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny") / "tiny-series"
    for seed, step in enumerate((0, 10, 100)):
        save_model(root / f"checkpoint-{step}", seed)
    save_prompts(root)
    return root


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


CUT = (2000, 9000, 9600)


@pytest.fixture(scope="session")
def measured_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A cut of the shipped series, and a store with every measure of it as ``make demo`` leaves one of the whole."""
    import circuit_drift
    from checkpoints.series.series import shipped_folder

    folder = tmp_path_factory.mktemp("demo")
    cut, whole = folder / "first-light", shipped_folder()
    cut.mkdir()
    head, *rows = (whole / "manifest.csv").read_text().splitlines(keepends=True)
    (cut / "manifest.csv").write_text(head + "".join(row for row in rows if int(row.split(",")[1]) in CUT))
    kept = [path for path in whole.iterdir() if path.is_file() and path.name != "manifest.csv"]
    for path in [*kept, *(whole / f"checkpoint-{step}" for step in CUT)]:
        (cut / path.name).symlink_to(path)
    circuit_drift.run(cut, store=folder / "store", device="cpu", progress=False)
    return cut, folder / "store"
