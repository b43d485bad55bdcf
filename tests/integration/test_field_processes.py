"""Methods over S_f and the retain data on two processes."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from cmu_lightning.unlearning import (
    NGD,
    NPO,
    CFk,
    EUk,
    GradientAscent,
    L1Sparse,
    NegGradPlus,
    RandomLabel,
    SalUn,
)
from tests.helpers.parallel_stages import fit_stage
from tests.helpers.short_stages import LINEAR, SHORT

pytestmark = pytest.mark.slow

METHODS = {
    "GradientAscent": partial(GradientAscent, lr=0.02, stop_at=None),
    "GradientAscent of one sample that stops": partial(GradientAscent, lr=0.3),
    "NPO that stops": partial(NPO, lr=0.3, stop_at=0.5),
    "NegGradPlus": partial(NegGradPlus, retain_weight=0.8),
    "NegGradPlus of one sample": partial(NegGradPlus, retain_weight=0.9),
    "RandomLabel": RandomLabel,
    "RandomLabel, mixed": partial(RandomLabel, labels="others", order="mixed"),
    "SalUn": partial(SalUn, trained_fraction=0.3),
    "L1Sparse": partial(L1Sparse, penalty=0.01),
    "CFk": partial(CFk, layers=1),
    "EUk": partial(EUk, layers=1),
    "NGD": partial(NGD, variance=1e-4),
}


def fit_all(original: str, folder: Path, processes: int) -> dict[str, dict[str, Any]]:
    """Fit each of them on 9 of 36 poisoned digits, an odd number, or on 1, and return what is to be the same."""
    return {
        name: fit_stage(make(LINEAR, SHORT, original), folder, processes, 1 / 36 if "one sample" in name else 0.25)
        for name, make in METHODS.items()
    }


def test_methods_on_two_processes_equal_those_on_one(original, tmp_path, ranks):
    two = tmp_path / "two"
    two.mkdir()
    shutil.copy(original, two / "original.ckpt")
    mine = fit_all(original, tmp_path, 1)
    for theirs in ranks.run(fit_all, str(two / "original.ckpt"), two, 2):
        for name, one in mine.items():
            other = theirs[name]
            assert one["counts"] == other["counts"], name
            assert (one["counts"][2] < 10) == ("stops" in name), name
            assert one["losses"] == pytest.approx(other["losses"], rel=1e-3, abs=1e-5), name
            for key, value in one["weights"].items():
                torch.testing.assert_close(value, other["weights"][key], rtol=1e-3, atol=1e-5, msg=name)
