"""Procedure A with optimisers other than SGD."""

from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from cmu_lightning.cli.fit import main
from cmu_lightning.unlearning import Original, Procedure
from cmu_lightning.unlearning.networks import build
from tests.helpers.run_files import metrics
from tests.helpers.short_stages import LINEAR, digits, trainer


@pytest.mark.parametrize(
    "kind", [partial(torch.optim.AdamW, weight_decay=0.1), partial(torch.optim.RMSprop, alpha=0.9), torch.optim.Rprop]
)
def test_another_optimiser_equals_a_plain_loop(tmp_path, kind):
    """Its arguments are its own, momentum and weight decay of SGD have no part in it, and the schedule is the same."""
    procedure = Procedure(steps=8, batch_size=300, lr=0.01, decay=1.0, optimizer=kind)
    data, stage = digits(), Original(LINEAR, procedure, seed=2)
    trainer(tmp_path).fit(stage, datamodule=data)

    network = build(LINEAR, 2)
    optimizer = kind(network.parameters(), lr=0.01)
    batches = data.train_dataloader()
    for step in range(8):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 8)
        batch = batches.batch(step)
        optimizer.zero_grad()
        cross_entropy(network(batch.image), batch.label).backward()
        optimizer.step()
    for got, want in zip(stage.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


def test_the_command_line_names_an_optimiser_by_its_class(tmp_path, small, runs):
    arguments = ["--config", "poison_digits.yaml", "--config", small, "--runs_dir", str(tmp_path)]
    few = ["--procedure.steps", "2", "--procedure.optimizer", "torch.optim.AdamW"]
    assert main(["fit", *arguments, *few, "--procedure.optimizer.weight_decay", "0.2"]) == 0
    stored = metrics(tmp_path, "Original")["config"]["procedure"]["optimizer"]
    assert stored["class_path"] == "torch.optim.AdamW"
    assert stored["init_args"]["weight_decay"] == 0.2
    assert "lr" not in stored["init_args"]  # it is the procedure's


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["torch.optim.lr_scheduler.LambdaLR"], "optimizer"),
        (["AdamW", "--procedure.optimizer.lr", "0.1"], "no option 'lr'"),
        (["torch.optim.Sgd"], "torch.optim.Sgd"),
    ],
)
def test_what_is_no_optimiser_is_refused_in_one_sentence(words, says, small, capsys):
    assert main(["fit", "--config", "poison_digits.yaml", "--config", small, "--procedure.optimizer", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("error: ")
    assert says in said
