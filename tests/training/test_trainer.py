"""Training learns, is deterministic, and a killed one resumes to the same weights as an unbroken one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmx.models.registry import get_system
from mmx.runtime.errors import BadDataError, UsageError
from mmx.training.recipe import TINY, Recipe
from mmx.training.trainer import Trainer, predict

RECIPE = replace(TINY, epochs=3, patience=3, batch_size=8)
ABOUT = {"system": "ours"}


def fresh(in_memory: type, recipe: Recipe = RECIPE) -> Trainer:
    torch.manual_seed(recipe.seed)
    system = get_system("ours")
    module = system.build(system.config(preset="tiny"))
    return Trainer(module, recipe, in_memory(40, 0), in_memory(24, 1), save_every=3)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_recipe_is_the_papers() -> None:
    paper = Recipe()
    assert (paper.learning_rate, paper.text_factor, paper.batch_size, paper.epochs) == (4.5e-6, 0.1, 8, 30)
    assert paper.modality_loss == 0


def test_adam_gives_the_text_a_tenth_and_positives_weigh_more(in_memory: type) -> None:
    made = fresh(in_memory, Recipe())
    text, rest = made.optimizer.param_groups
    assert text["lr"] == pytest.approx(4.5e-7) and rest["lr"] == 4.5e-6
    assert len(text["params"]) == sum(name.startswith("T.") for name, _ in made.module.named_parameters())
    positives = made.train.targets.sum(axis=0)
    np.testing.assert_allclose(made._loss.pos_weight.numpy(), (40 - positives) / positives, rtol=1e-6)


def test_balanced_draws_make_labels_equally_frequent(in_memory: type) -> None:
    train = in_memory(40, 0)
    train.targets = np.eye(6, dtype=np.int64)[[0] * 30 + [1, 2, 3, 4, 5] * 2]
    system = get_system("ours")
    made = Trainer(system.build(system.config(preset="tiny")), replace(Recipe(), balanced=True), train, in_memory(6, 1))
    counts = np.zeros(6)
    for made._epoch in range(30):
        order = made._order()
        assert len(order) == 40
        counts += train.targets[order].sum(axis=0)
    np.testing.assert_allclose(counts / counts.sum(), [1 / 6] * 6, atol=0.03)
    np.testing.assert_allclose(made._loss.pos_weight.numpy(), [5.0] * 6, rtol=1e-6)


def test_it_learns_what_the_words_say(in_memory: type) -> None:
    made = fresh(in_memory, replace(RECIPE, epochs=12, patience=12))
    history = list(made.run())
    assert history[-1].loss < 0.8 * history[0].loss
    made.module.load_state_dict(made.best)
    predicted = predict(made.module, made.valid)["logits"].argmax(axis=1)
    assert (predicted == made.valid.targets.argmax(axis=1)).mean() > 0.8


@pytest.mark.parametrize("moment", ["inside an epoch", "between epochs"])
def test_a_killed_training_resumes_to_the_same_weights(in_memory: type, tmp_path: Path, moment: str) -> None:
    """The process is killed (not stopped); a new one goes on from the file."""
    torch.use_deterministic_algorithms(True)
    unbroken = fresh(in_memory)
    expected = list(unbroken.run())
    state = tmp_path / "training.pt"
    if (child := os.fork()) == 0:
        killed = fresh(in_memory)
        saves = 0

        def save_and_die() -> None:
            nonlocal saves
            killed.save(state, ABOUT)
            saves += 1
            if saves == (3 if moment == "inside an epoch" else 2):
                os._exit(9)

        list(killed.run(save_and_die))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    resumed = fresh(in_memory)
    resumed.load(state, ABOUT)
    assert (resumed._step > 0) == (moment == "inside an epoch")
    list(resumed.run())
    assert same(weights(resumed), weights(unbroken)) and same(resumed.best, unbroken.best)
    assert resumed.history == expected and resumed.best_thresholds == unbroken.best_thresholds
    torch.use_deterministic_algorithms(False)


def test_a_seed_decides(in_memory: type) -> None:
    one = replace(RECIPE, epochs=1)
    first, second, other = fresh(in_memory, one), fresh(in_memory, one), fresh(in_memory, replace(one, seed=1))
    for made in (first, second, other):
        list(made.run())
    assert same(weights(first), weights(second)) and not same(weights(first), weights(other))


def test_another_trainings_state_is_rejected(in_memory: type, tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    fresh(in_memory).save(path, ABOUT)
    with pytest.raises(UsageError, match=r"another recipe \(\w+ \S+, not \S+\)"):
        fresh(in_memory, replace(RECIPE, learning_rate=1e-3)).load(path, ABOUT)
    with pytest.raises(UsageError, match="another system"):
        fresh(in_memory).load(path, {"system": "v2em"})
    path.write_bytes(b"nonsense")
    with pytest.raises(BadDataError, match=r"training\.pt is no training state"):
        fresh(in_memory).load(path, ABOUT)


def test_a_modality_that_takes_no_part_stays_out(in_memory: type) -> None:
    made = fresh(in_memory, replace(RECIPE, epochs=1, modalities=("text", "audio")))
    before = weights(made)
    list(made.run())
    after = weights(made)
    assert float(after["weighted_fusion.weight"][0, 1]) == 0 and float(after["weighted_fusion.weight"][0, 0]) != 0
    assert torch.equal(before["V.0.weight"], after["V.0.weight"])
    assert not torch.equal(before["t_out.weight"], after["t_out.weight"])


def test_it_stops_when_validation_gets_no_better(in_memory: type) -> None:
    made = fresh(in_memory, replace(RECIPE, epochs=50, patience=2, learning_rate=1e-12))
    assert len(list(made.run())) == 3


def test_mixed_precision_learns_and_keeps_fp32_weights(in_memory: type) -> None:
    made = fresh(in_memory, replace(RECIPE, epochs=2, patience=2, mixed=True))
    history = list(made.run())
    assert history[-1].loss < history[0].loss
    assert all(value.dtype == torch.float32 for value in made.module.parameters())
    plain = fresh(in_memory, replace(RECIPE, epochs=2, patience=2))
    list(plain.run())
    assert not same(weights(made), weights(plain))


@pytest.mark.parametrize(("field", "value"), [("learning_rate", 0.0), ("epochs", 0), ("modalities", ("smell",))])
def test_a_recipe_that_makes_no_sense(field: str, value: object) -> None:
    with pytest.raises(UsageError):
        replace(RECIPE, **{field: value})
