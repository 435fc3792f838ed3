"""A small model that is trained over two processes (FSDP2, gloo)."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

PROCESSES = 2
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def tied_model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, tie_word_embeddings=True, **SIZES))


def step(model: LlamaForCausalLM) -> None:
    ids = torch.arange(12).reshape(2, 6)
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()


@contextmanager
def sharded_model(rank: int, folder: Path) -> Iterator[LlamaForCausalLM]:
    """The model, sharded over a group that this process joins; it leaves together with the others."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=PROCESSES)
    model = tied_model()
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    yield model
    dist.barrier()
    dist.destroy_process_group()


def in_all_processes(work: Callable[[int, Path], None], folder: Path) -> None:
    """Do the work of each rank in a process of its own."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, folder)) for rank in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
