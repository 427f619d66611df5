"""The loss over the answer's columns against the same loss over all logits, and its weights and counts."""

import pytest
import torch
from tiny_base import make_recipe
from torch.nn.functional import cross_entropy

from rivegs_mllm.train import make_trainer
from rivegs_mllm.training.dataset.rows import IGNORED, Collator
from rivegs_mllm.training.loss import answer_loss


@pytest.fixture(scope="module")
def trainer(tmp_path_factory, base, emblems):
    weights = "--answer.weights={knowledge: 0.5, boxes: 3.0}"
    return make_trainer(make_recipe(tmp_path_factory.mktemp("recipe"), base, emblems, weights))


@pytest.fixture(scope="module")
def batch(trainer):
    return Collator(trainer.train_dataset.encoder, True)([trainer.train_dataset[index] for index in range(4)])


def gradients(model) -> dict[str, torch.Tensor]:
    """The gradients of all trained parameters, which are then cleared."""
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}
    model.zero_grad()
    return found


def by_hand(logits, ids, first: int, labels, weights) -> torch.Tensor:
    """The loss over all logits, target by target. ``first`` is the column of the batch where the labels begin."""
    total, count = 0, 0
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            if labels[row, column] != IGNORED:
                target = ids[row, first + column]
                total = total + weights[row, column] * cross_entropy(logits[row, first + column - 1], target)
                count += 1
    return total / count


def test_loss_and_gradients_are_those_of_the_full_computation(trainer, batch):
    model = trainer.model.double().train()
    for name, value in model.named_parameters():
        if "lora_B" in name:  # zero at the start, which would hide half of the gradients
            torch.nn.init.normal_(value, std=0.02, generator=torch.Generator().manual_seed(len(name)))
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "weights")}
    inputs["pixel_values"] = inputs["pixel_values"].double()
    labels, weights = batch["labels"], batch["weights"].double()

    kept = model(**inputs, logits_to_keep=labels.shape[1]).logits
    assert kept.shape[1] == labels.shape[1] < batch["input_ids"].shape[1]
    # float() rounds the logits to single precision, so the weights are what is left in double
    loss = answer_loss(kept, labels, weights)
    loss.backward()
    short = gradients(model)

    logits = model(**inputs).logits
    full_loss = by_hand(logits, batch["input_ids"], logits.shape[1] - labels.shape[1], labels, weights)
    full_loss.backward()
    full = gradients(model)

    assert loss.item() == pytest.approx(full_loss.item(), rel=1e-5)
    assert short.keys() == full.keys()
    assert len(full) > 10
    for name, value in full.items():
        assert value.abs().max() > 0, name
        assert (short[name] - value).norm() <= 1e-5 * value.norm(), name


def test_weights_multiply_the_loss_of_their_tokens():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    labels[0, 3:] = IGNORED
    labels[:, 0] = IGNORED
    weights = torch.rand(2, 5)
    used = labels[:, 1:] != IGNORED
    apart = torch.stack(
        [
            cross_entropy(logits[row, column - 1], labels[row, column]) * weights[row, column]
            for row in range(2)
            for column in range(1, 5)
            if used[row, column - 1]
        ]
    )
    assert torch.allclose(answer_loss(logits, labels, weights), apart.sum() / used.sum())
    weights[:, 2] = 0
    changed = logits.clone()
    changed[:, 1] += 5 * torch.randn(2, 7)
    assert torch.equal(answer_loss(changed, labels, weights), answer_loss(logits, labels, weights))


def test_the_parts_of_a_batch_add_up_to_the_whole():
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(6, 5, 7), torch.randint(7, (6, 5)), torch.rand(6, 5)
    labels[torch.rand(6, 5) < 0.4] = IGNORED
    count = labels[:, 1:].ne(IGNORED).sum()
    parts = [
        answer_loss(logits[part], labels[part], weights[part], count)
        for part in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    assert torch.allclose(sum(parts), answer_loss(logits, labels, weights))


def test_a_row_without_targets_changes_nothing():
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(3, 5, 7), torch.randint(7, (3, 5)), torch.rand(3, 5)
    labels[2] = IGNORED
    assert torch.equal(answer_loss(logits, labels, weights), answer_loss(logits[:2], labels[:2], weights[:2]))
