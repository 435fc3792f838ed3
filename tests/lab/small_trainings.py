"""A small training run with transformers' Trainer, for probes to look into."""

import random

import numpy as np
import torch
from transformers import Trainer, TrainingArguments

from checkpoints import open_checkpoint
from circuit_drift.training import Prober, Schedule
from circuit_drift.training.strategies import Config
from tests.lab.small_models import small_llama

ALWAYS = 1e9


def tiny(tokenizer, *, seed=0, dropout=0.1):
    model = small_llama(tokenizer, seed=seed, layers=2, max_position_embeddings=256, attention_dropout=dropout)
    return model.train()


class Rows(torch.utils.data.Dataset):
    """Facts as training rows, with noise from the global generators: what a disturbed run would betray."""

    def __init__(self, tokenizer, facts):
        texts = [fact.clean + fact.answer for fact in facts]
        self.ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        ids = self.ids[index].clone()
        place = random.randrange(len(ids)) + np.random.randint(2) + int(torch.randint(2, ()))  # noqa: NPY002
        ids[place % len(ids)] = int(torch.randint(4, 50, ()))
        return {"input_ids": ids, "labels": ids}


def trainer_of(tokenizer, facts, folder, *, callbacks=(), steps=12, **options):
    arguments = TrainingArguments(
        output_dir=str(folder),
        **{
            "max_steps": steps,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "logging_steps": 4,
            "save_strategy": "no",
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "seed": 3,
            **options,
        },
    )
    return Trainer(tiny(tokenizer), arguments, train_dataset=Rows(tokenizer, facts), callbacks=list(callbacks))


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def optimizer_state(trainer):
    return [value for state in trainer.optimizer.state.values() for value in state.values()]


def same(a, b):
    return all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in zip(a, b, strict=True))


def prober_of(tokenizer, tmp_path, **options):
    options = {"schedule": Schedule(every=3), "share": ALWAYS, "store": tmp_path / "store", **options}
    return Prober("live", tokenizer, **options)


def config_of(place, *strategies, **options):
    options = {"replay": place / "old.jsonl", "epochs": 2, "batch": 4, "entity": "person", **options}
    return Config(str(place / "base"), place / "new.jsonl", place / "facts.jsonl", strategies, **options)


def weights_of(folder):
    return open_checkpoint(folder).load().model.state_dict()


def same_weights(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)
