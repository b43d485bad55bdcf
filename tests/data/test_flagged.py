"""S_f from a list, and data of which nobody knows what was done to them."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from cmu_lightning.__main__ import main as command_line
from cmu_lightning.cli.fit import main
from cmu_lightning.data import DigitsDataModule, Flagged, Poison, Uniform, Unknown
from cmu_lightning.data.sampling import held_out
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.ledger import find_folder, is_finished
from cmu_lightning.experiment.run import read_metrics
from cmu_lightning.report.load import read_runs

NAMES = ["cat/a b.png", "cat/1.png", "dog/1.png", "dog/2.png"]


def write(text, name="list.txt"):
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return Flagged(name)


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("cat/a b.png\n\n./dog/2.png\n", "list.txt", [0, 3]),
        ("3\r\n0\r\n", "list.txt", [0, 3]),
        ("score,name\n0.9,cat/1.png\n0.5,dog/../dog/1.png\n", "list.csv", [1, 2]),
        ("\ufeffName;x\n".replace(";", ",") + '"cat/a b.png",1\n', "list.csv", [0]),
        ("index,name\n3,cat/1.png\n", "list.csv", [1]),
        ("index\n3\n", "list.txt", [3]),
        ("cat\\1.png\n.\\dog\\2.png\n", "list.txt", [1, 3]),
        ("0000000000000003\n", "list.txt", [3]),
    ],
)
def test_what_a_list_says(text, name, expected):
    assert torch.nonzero(write(text, name).flagged(4, NAMES)).flatten().tolist() == expected


def test_accents_are_the_same_however_they_are_written():
    composed, decomposed = "cat/\u00e9.png", "dog/e\u0301.png"
    text = "cat/e\u0301.png\ndog/\u00e9.png\n"
    assert write(text).flagged(3, [composed, decomposed, "dog/e.png"]).tolist() == [True, True, False]


def test_indices_are_preferred_where_samples_have_no_names():
    assert write("index,name\n3,cat/1.png\n", "list.csv").flagged(4, None).tolist() == [False, False, False, True]


LONG = [f"dog/{number}.png" for number in range(10_000)]

WRONG = {
    "nothing": ("\n \n", NAMES, "list.txt flags nothing"),
    "a header alone": ("name\n", NAMES, "list.txt flags nothing"),
    "the same twice": ("cat/1.png\n\n2\n./cat/1.png\n", NAMES, "line 4 flags ./cat/1.png again, as line 1 did"),
    "the same by name and by index": ("cat/1.png\n1\n", NAMES, "line 2 flags 1 again, as line 1 did"),
    "an unknown name": ("cat/1.png\ncat/9.png\n", NAMES, "line 2 has 'cat/9.png', which is no training image"),
    "an index too large": ("0\n4\n", NAMES, "line 2 has index 4, but the training samples are 0 to 3"),
    "two in a line": ("index\n0\n1,2\n", None, "line 3 has more cells than the header has columns"),
    "a negative index": ("-1\n", None, "line 1 has '-1', which is no index"),
    "names without names": ("cat/1.png\n", None, "line 1 has 'cat/1.png', which is no index"),
    "a file outside": ("cat/1.png\ncat/../../x.png\n", NAMES, "line 2 has 'cat/../../x.png', which leaves"),
    "an absolute path": ("/etc/passwd\n", NAMES, "line 1 has '/etc/passwd', which is a full path"),
    "more digits than Python reads": ("9" * 5000, NAMES, "line 1 has index 999"),
    "a line that never ends": (f'name,score\n"{"x" * 140_000}\n', NAMES, "line 2 is no line of a CSV file"),
    "everything": ("0\n1\n2\n3\n", NAMES, "flags all 4 training samples"),
    "no text": (b"\xff\xfe\x00", NAMES, "is not text"),
    "one bad line of many": (
        "\n".join([*LONG[:7000], "dog/x.png", *LONG[7000:9999]]),
        LONG,
        "line 7001 has 'dog/x.png'",
    ),
    "an empty cell": ("name,score\ncat/1.png,1\n,2\n", NAMES, "line 3 has no name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_list(case):
    text, names, says = WRONG[case]
    with pytest.raises(UserError, match=re.escape(says)) as error:
        write(text).flagged(len(names or NAMES), names)
    assert str(error.value).count("\n") == 0


def test_a_csv_needs_a_header_and_a_list_has_to_be_there():
    with pytest.raises(UserError, match="line 1 has no column called name or index"):
        write("cat/1.png,0.3\n", "list.csv").flagged(4, NAMES)
    for path in ("nothing.csv", "."):
        with pytest.raises(UserError, match="cannot be read"):
            Flagged(path).flagged(4, NAMES)


def digits(manipulation, discovery=None, **more):
    data = DigitsDataModule(manipulation, discovery=discovery, **more)
    data.setup()
    return data


def test_s_f_is_exactly_the_list_as_stored():
    """Indices count the samples that validate, which a known manipulation refuses in the list."""
    held = held_out(DigitsDataModule(Unknown()).load()[0].labels, 203)
    trained, validating = torch.nonzero(~held).flatten(), int(torch.nonzero(held)[5])
    chosen = trained[[100, 7, 900]]
    data = digits(Poison(size=36), write("\n".join(map(str, chosen.tolist()))))
    assert torch.nonzero(data.samples.deleted).flatten().tolist() == [7, 100, 900]
    assert data.identified == int(data.samples.manipulated[[7, 100, 900]].sum()) / 36
    with pytest.raises(UserError, match=f"flags index {validating}, which validates"):
        digits(Poison(size=36), write(f"{validating}\n{chosen[0]}"))
    with pytest.raises(UserError, match=r"give discovery.path=.* or identified=0.5, not both"):
        digits(Poison(size=36), write("3"), identified=0.5)


def test_of_unknown_data_flagged_samples_never_validate():
    plain = digits(Unknown())
    held = torch.nonzero(held_out(plain.load()[0].labels, 203)).flatten()
    data = digits(Unknown(), write("\n".join(map(str, held[:9].tolist()))))
    assert (len(plain.samples.given_labels), len(plain.validation.given_labels), int(plain.samples.deleted.sum())) == (
        1197,
        203,
        0,
    )
    assert (len(data.samples.given_labels), len(data.validation.given_labels), int(data.samples.deleted.sum())) == (
        1206,
        194,
        9,
    )
    assert not data.samples.manipulated.any()
    assert torch.equal(data.samples.given_labels, data.samples.true_labels)
    assert data.deletion_arguments == {"identified", "seed"}
    assert digits(Poison(size=3)).deletion_arguments == {"identified", "seed", "discovery"}
    with pytest.raises(UserError, match="Uniform finds manipulated samples, and none is known"):
        digits(Unknown(), Uniform(count=5))


UNKNOWN = ("--data.manipulation", "Unknown", "--setting", "mine", "--runs_dir", "runs")
LIST = ("--data.discovery", "Flagged", "--data.discovery.path", "list.txt")


@pytest.fixture(scope="module")
def unknown(tmp_path_factory, small):
    """CF on a list, its original trained first, and on another list of the same name; the runs folder."""
    folder = tmp_path_factory.mktemp("unknown")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["cmu_lightning"])
        Path("setting.yaml").write_text(
            "setting: mine\ndata: {class_path: DigitsDataModule, init_args: {manipulation: {class_path: Unknown}}}\n"
        )
        setting = ("fit", "--config", "setting.yaml", "--config", small, "--runs_dir", "runs")
        cf = ("--config", "unlearn/cf.yaml", *LIST)
        for text in ("3\n40\n500\n", "3\n40\n501\n"):
            write(text)
            for arguments in (LIST, cf, cf):  # an original in this process is quicker than one that CF asks for
                assert main([*setting, *arguments]) == 0
    return folder


def results(folder, method):
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"runs/mine/{method}/*/metrics.json"))]


def test_what_is_measured_without_clean_labels(unknown):
    measured = {"val_acc", "val_acc_matched", "fit_identified", "fit_retain", "changed", "selection_score"}
    told = {"deleted", "original", "manipulation", "fingerprint", "seconds"}
    for run in results(unknown, "CF"):
        assert measured | told <= run.keys()
        assert run["deleted"] == 3
        assert run["selection_score"] == (run["val_acc"] + run["changed"]) / 2
        absent = {"manipulated", "identified", "false_positives", "discovery_precision", "discovery_recall", "asr"}
        absent |= {"acc_corr", "acc_retain", "acc_manipulated", "acc_identified", "acc_unidentified"}
        assert not absent & run.keys()
    assert {"val_acc", "val_majority"} == {
        name for name in results(unknown, "Original")[0] if name.startswith(("acc", "val", "fit"))
    }


def test_another_list_of_the_same_name_is_another_run(unknown, monkeypatch, capsys):
    assert len({run["hash"] for run in results(unknown, "CF")}) == 2
    assert len({run["content"] for run in results(unknown, "CF")}) == 2
    assert len({run["hash"] for run in results(unknown, "Original")}) == 2  # flagged samples do not validate
    monkeypatch.chdir(unknown)
    again = [
        ("--config", f"{run}/config.yaml", "--ckpt_path", f"{run}/last.ckpt") for run in Path("runs/mine/CF").iterdir()
    ]
    assert sorted(main(["test", *arguments]) for arguments in again) == [0, 2]
    assert "another deletion set (S_f)" in capsys.readouterr().err


def test_a_sweep_asks_again_where_files_may_have_changed(unknown):
    """A note by the command line alone would call a run finished that was of another list."""
    runs_dir = unknown / "runs"
    notes = [path.name for path in runs_dir.glob(".sweep/asked/*")]
    assert not any(is_finished(note, runs_dir) for note in notes)
    found = {find_folder(note, runs_dir) for note in notes} & set(runs_dir.glob("mine/CF/*"))
    assert found == {max(runs_dir.glob("mine/CF/*"), key=lambda run: (run / "metrics.json").stat().st_mtime_ns)}


def test_a_report_names_runs_of_unknown_data(unknown, runs):
    shutil.copytree(unknown / "runs", "all")
    shutil.copytree(runs, "all", dirs_exist_ok=True)
    found = read_runs(Path("all"))
    assert list(found.table["setting"]) == ["poison_digits"]
    assert {each.reason.partition(":")[0] for each in found.skipped} == {"of unknown manipulation"}
    assert len(found.skipped) == 4


def test_a_report_of_such_runs_alone_says_where_to_look(unknown, capsys):
    shutil.copytree(unknown / "runs", "all")
    assert command_line(["report", "all", "--out", "report"]) == 2
    assert "no run in all can be reported" in capsys.readouterr().err
    assert not Path("report").exists()


def test_no_original_is_trained_for_a_list_that_cannot_be(fit, capsys):
    write("a name\n")
    arguments = ("--config", "unlearn/cf.yaml", "--runs_dir", "runs")
    assert fit(*arguments, *LIST) == 2
    assert "line 1 has 'a name', which is no index" in capsys.readouterr().err
    assert fit(*arguments, "--data.manipulation", "Unknown") == 2
    assert "S_f is empty" in capsys.readouterr().err
    assert [path for path in Path("runs").rglob("*") if ".locks" not in path.parts] == []


def test_nothing_to_unlearn_is_said_and_leaves_nothing(fit, capsys):
    Path("setting.yaml").write_text(
        "setting: mine\ndata: {class_path: DigitsDataModule, init_args: {manipulation: {class_path: Unknown}}}\n"
    )
    assert fit("--config", "setting.yaml", "--runs_dir", "own", "--procedure.steps", "1", "--data.val_size", "0") == 0
    (folder,) = Path("own/mine/Original").iterdir()
    assert "val_acc" not in read_metrics(folder)
    arguments = ("--config", "setting.yaml", "--config", "unlearn/cf.yaml", "--runs_dir", "runs")
    arguments += ("--model.original", f"{folder}/last.ckpt")
    assert fit(*arguments) == 2
    assert "S_f is empty" in capsys.readouterr().err
    for text, says in (("99999\n", "line 1 has index 99999"), ("", "flags nothing"), (None, "cannot be read")):
        Path("list.txt").unlink(missing_ok=True)
        if text is not None:
            write(text)
        assert fit(*arguments, *LIST) == 2
        assert says in capsys.readouterr().err
    assert [path for path in Path("runs").rglob("*") if ".locks" not in path.parts] == []
