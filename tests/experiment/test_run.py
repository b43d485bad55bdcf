"""`metrics.json`: its digest, and what is said of a damaged one."""

import json
from pathlib import Path

import pytest

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import read_metrics, write_metrics

RESULTS = {"hash": "0123456789", "acc_corr": 0.25, "seconds": 1.5, "environment": {"cpus": 2}, "config": {"a": [1]}}


def test_what_is_written_is_read():
    write_metrics(Path("run"), RESULTS)
    assert read_metrics(Path("run")) == RESULTS
    assert read_metrics(Path("none")) is None
    stored = json.loads(Path("run/metrics.json").read_text())
    assert len(stored["environment"].pop("digest")) == 16
    assert stored == RESULTS


def test_no_flipped_bit_gives_other_results():
    write_metrics(Path("run"), RESULTS)
    path = Path("run/metrics.json")
    whole, noticed = path.read_bytes(), 0
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = read_metrics(Path("run"))
        except UserError:
            noticed += 1
            continue
        # A blank between values, or a letter in the name of the digest or of what it is in.
        numbers = {name: value for name, value in RESULTS.items() if name != "environment"}
        assert {name: found.get(name) for name in numbers} == numbers
        assert {"cpus": 2}.items() <= found.get("environment", {"cpus": 2}).items()
    assert noticed > 0.8 * 8 * len(whole)


def test_an_edit_is_taken_without_the_digest_and_not_with_it():
    write_metrics(Path("run"), RESULTS)
    path = Path("run/metrics.json")
    path.write_text(path.read_text().replace("0.25", "0.75"))
    with pytest.raises(UserError, match=r"is damaged or edited, .* or delete the digest in it if the edit is yours"):
        read_metrics(Path("run"))
    edited = json.loads(path.read_text())
    del edited["environment"]["digest"]
    path.write_text(json.dumps(edited))
    assert read_metrics(Path("run")) == RESULTS | {"acc_corr": 0.75}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '"the hash"',
        "[" * 100_000,
        json.dumps(RESULTS)[:-1] + ', "deep": ' + "[" * 500 + "]" * 500 + "}",
        '{"hash": 1',
        b"\xff\xfe",
    ],
)
def test_what_is_no_result_is_said(text):
    Path("run").mkdir()
    Path("run/metrics.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"run/metrics.json is damaged: delete it, and the run's numbers are measured"):
        read_metrics(Path("run"))
