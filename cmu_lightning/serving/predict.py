"""`python -m cmu_lightning predict RUN`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from cmu_lightning.errors import UserError
from cmu_lightning.parsing import Parser, read_env
from cmu_lightning.serving.finished import read_finished

if TYPE_CHECKING:
    from cmu_lightning.serving.rows import Row


def parser() -> Parser:
    """The command's arguments."""
    made = Parser("predict", "What a run predicts, beside what its original predicted, as a CSV file.")
    made.add_argument("run", type=Path, metavar="RUN", help="Folder of a finished run.")
    made.add_argument("--out", type=Path, default=Path("predictions.csv"), metavar="FILE", help="Default: %(default)s.")
    made.add_argument(
        "--images",
        type=Path,
        nargs="+",
        metavar="FOLDER_OR_FILE",
        help="Images to classify; default the samples that the run was trained and validated on.",
    )
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: Without the word predict.

    Returns:
        The exit code.

    Raises:
        UserError: The arguments cannot work, or something of the run is not there.
    """
    given = parser().parse_args(list(arguments))
    read_env()
    stored = read_finished(given.run)
    files = None
    if given.images is not None:
        from cmu_lightning.serving.images import find_images

        files = find_images(given.images)
    if given.out.is_dir():
        raise UserError(f"--out {given.out} is a folder: give the name of a CSV file")
    rows = _rows(given.run, stored, files)
    from cmu_lightning.files import write_atomically
    from cmu_lightning.serving.rows import as_csv

    try:
        write_atomically(given.out, as_csv(rows))
    except OSError as error:
        raise UserError(f"{given.out} cannot be written ({error}): give another --out") from error
    _show(rows, given.out)
    return 0


def _rows(run: Path, stored: dict[str, Any], files: list[Path] | None) -> "list[Row]":
    """The content of the file."""
    with Console(stderr=True).status(f"reading {run}"):
        from cmu_lightning.experiment.restore import restore_data, restore_network
        from cmu_lightning.serving.original import original_checkpoint
        from cmu_lightning.serving.predictions import Classifier
        from cmu_lightning.serving.rows import of_data, of_files

        networks = [restore_network(run, original_checkpoint(run, stored)), restore_network(run)]
        data = restore_data(run)
    classifier = Classifier(networks, data)
    if files is None:
        return of_data(classifier, data, is_original="original" not in stored)
    return of_files(classifier, files)


def _show(rows: "list[Row]", out: Path) -> None:
    """How many predictions are not what they were."""
    table = Table("", "images", "changed", "fraction")
    for split in dict.fromkeys(row.get("split", "images") for row in rows):
        changed = [row["changed"] == "true" for row in rows if row.get("split", "images") == split]
        table.add_row(str(split), f"{len(changed):,}", f"{sum(changed):,}", f"{sum(changed) / len(changed):.4f}")
    console = Console()
    console.print(table)
    console.print(str(out), soft_wrap=True, markup=False)
