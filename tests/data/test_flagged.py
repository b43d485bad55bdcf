"""S_f from a list, and data of which nobody knows what was done to them."""

import hashlib
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


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("name;score\ncat/1.png;0,9\n", "list.csv", [1]),
        ("score\tname\n0.9\tcat/1.png\n", "list.tsv", [1]),
        ("sep=;\r\nindex;score\r\n2;1\r\n", "list.csv", [2]),
        ("name|x\ndog/2.png|\n", "list.csv", [3]),
        ("\n\nindex;x\n2.0;1\n0.000;1\n", "list.csv", [0, 2]),
        ("3.0\n1\n", "list.txt", [1, 3]),
        ("\"cat/a b.png\"\n'dog/1.png'\n", "list.txt", [0, 2]),
        ('"score"; "name"\n1; "cat/a b.png"\n', "list.csv", [0]),
        ("\ufeffname\ncat/1.png\n".encode("utf-16-le"), "list.csv", [1]),
        ("name\tscore\r\ncat/1.png\t1\r\n".encode("utf-16"), "list.csv", [1]),
        ("name\ncat/1.png\n".encode("utf-8-sig"), "list.csv", [1]),
        ("name;note\ncat/1.png;\xe9\n".encode("latin-1"), "list.csv", [1]),
    ],
)
def test_lists_of_other_programs(text, name, expected):
    assert torch.nonzero(write(text, name).flagged(4, NAMES)).flatten().tolist() == expected


def test_an_eight_bit_list_names_files_with_accents():
    assert write("name\ncat/\xe9.png\n".encode("latin-1")).flagged(2, ["cat/a.png", "cat/\xe9.png"]).tolist() == [0, 1]


CLEANLAB = "is_label_issue,label_score,given_label,predicted_label\n"
FRAME = [*("False,0.9,0,0", "True,0.2,0,1", "False,0.4,1,1", "true,0.1,1,0")]


def frame(rows=FRAME, header=CLEANLAB):
    return header + "".join(f"{row}\n" for row in rows)


@pytest.mark.parametrize(
    ("text", "threshold", "expected"),
    [
        (frame(), None, [1, 3]),
        (frame(), 0.15, [3]),
        (frame(), 0.5, [1, 2, 3]),
        (frame(f"{3 - row},{cells}" for row, cells in enumerate(FRAME)).replace("is_l", ",is_l", 1), None, [0, 2]),
        (
            frame(f"{3 - row},{cells}" for row, cells in enumerate(FRAME)).replace("is_l", "Unnamed: 0,is_l", 1),
            None,
            [0, 2],
        ),
        (
            frame(f"{NAMES[row]},{cells}" for row, cells in enumerate(FRAME)).replace("is_l", "name,is_l", 1),
            None,
            [1, 3],
        ),
        (frame(FRAME).replace(",", ";").replace("0.", "0,"), 0.15, [3]),
        ("index,is_label_issue\n2,yes\n0,no\n1,1\n3,0\n", None, [1, 2]),
        ("index,is_label_issue,is_outlier_issue\n2,1,0\n0,0,1\n", None, [2]),
        ("index,is_issue\n2,TRUE\n0,FALSE\n", None, [2]),
        ("index,label_quality\n2,0.3\n0,0.31\n", 0.31, [2]),
        ("name,given_label,probability,suggested_label\ncat/1.png,0,0.9,1\ndog/1.png,1,0.2,\n", 0.5, [1]),
    ],
)
def test_of_a_frame_of_label_issues_true_rows_are_flagged(text, threshold, expected):
    write(text, "list.csv")
    assert torch.nonzero(Flagged("list.csv", threshold).flagged(4, NAMES)).flatten().tolist() == expected


ASCENDING = [f"{row > 3},{row / 10},0,0" for row in range(12)]

WRONG_FRAMES = {
    "a score alone": ("index,label_quality\n1,0.3\n", None, 4, "give discovery.threshold, below which"),
    "suspects": ("index,probability,suggested_label\n1,0.3,\n", None, 4, "threshold, above which a sample is flagged"),
    "a threshold for nothing": (
        "index,x\n1,0.3\n",
        0.5,
        4,
        "threshold=0.5 is of a column label_quality or label_score",
    ),
    "a threshold for plain text": ("1\n2\n", 0.5, 4, "threshold=0.5 is of a column"),
    "no verdict": ("index,is_label_issue\n1,True\n2,\n", None, 4, "line 3 has '' as is_label_issue, which is neither"),
    "several": ("index,is_dark_issue,is_odd_issue\n1,1,0\n", None, 4, "several verdicts, is_dark_issue, is_odd_issue"),
    "no score": ("index,label_score\n1,low\n", 0.5, 4, "line 2 has 'low' as label_score, which is no number"),
    "NaN as a score": ("index,label_score\n1,nan\n", 0.5, 4, "line 2 has 'nan' as label_score"),
    "rows are missing": (
        frame(FRAME[:3]),
        None,
        4,
        "no column called name or index, and 3 rows for 4 training samples",
    ),
    "rows are sorted": (frame(ASCENDING), None, 12, "rows are sorted by label_score"),
    "rows are sorted downwards": (frame(ASCENDING[::-1]), None, 12, "rows are sorted by label_score"),
    "no issue": (frame(["False,1,0,0"] * 4), None, 4, "list.csv flags nothing"),
    "only issues": (frame(["True,1,0,0"] * 4), None, 4, "flags all 4 training samples"),
    "twice": ("index,is_issue\n1,1\n1,0\n", None, 4, "line 3 names 1 again, as line 2 did"),
    "an unknown sample that is no issue": ("index,is_issue\n1,1\n7,0\n", None, 4, "line 3 has index 7"),
    "zeros": (b"\x00\x01\x02", None, 4, "is not text"),
}


@pytest.mark.parametrize("case", WRONG_FRAMES)
def test_what_is_wrong_with_a_frame(case):
    text, threshold, total, says = WRONG_FRAMES[case]
    write(text, "list.csv")
    with pytest.raises(UserError, match=re.escape(says)) as error:
        Flagged("list.csv", threshold).flagged(total, None)
    assert str(error.value).count("\n") == 0


def test_a_threshold_is_a_number():
    with pytest.raises(UserError, match="threshold=nan is no number"):
        Flagged("list.csv", float("nan"))


def corrected(labels, classes=None, num_classes=3):
    """Return the corrections of a list with one label a sample."""
    rows = "".join(f"{sample},{sample == 0},{label}\n" for sample, label in enumerate(labels))
    discovery = write(f"index,is_issue,corrected_label\n{rows}", "list.csv")
    discovery.flagged(len(labels) + 1, None)
    discovery.check_corrections(num_classes, classes)
    return discovery.corrected


def test_corrected_labels_are_kept_in_the_order_of_the_samples():
    assert corrected(["2", "", "0.0"]).tolist() == [2, -1, 0, -1]
    assert corrected(["dog", "", "cat"], ["dog", "cat"], 2).tolist() == [0, -1, 1, -1]
    assert corrected(["1", "", "0"], ["dog", "cat"], 2).tolist() == [1, -1, 0, -1]
    assert corrected(["1", "2"], ["2", "1"], 2).tolist() == [1, 0, -1]  # names before numbers
    assert corrected(["", ""]) is None
    for wrong in (["3"], ["-1"], ["1.5"], ["bird"], ["0", "dog"]):
        line = 1 + len(wrong)
        with pytest.raises(
            UserError, match=rf"line {line} has '{wrong[-1]}' as corrected_label, .* from 0 to 2, or all"
        ):
            corrected(wrong, ["dog", "cat", "cow"])


def test_corrected_labels_are_checked_with_the_data():
    data = digits(Poison(size=36), write("index,corrected_label\n3,7\n9,2\n", "list.csv"), val_size=0)
    assert torch.nonzero(data.samples.deleted).flatten().tolist() == [3, 9]
    assert data.discovery.corrected[[3, 9, 4]].tolist() == [7, 2, -1]
    with pytest.raises(UserError, match="line 2 has '10' as corrected_label"):
        digits(Poison(size=36), write("index,corrected_label\n3,10\n", "list.csv"), val_size=0)


def test_the_digest_of_a_list_is_of_its_text():
    text = "name\ncat/1.png\n"
    digest = {"path": hashlib.sha256(text.encode()).hexdigest()}
    for written in (text, text.replace("\n", "\r\n"), "\ufeff" + text, text.encode("utf-16")):
        assert write(written).content() == digest


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
    assert "no run in all has numbers to compare" in capsys.readouterr().err
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
