"""`python -m cmu_lightning predict RUN`: the predictions of a run and of its original, sample by sample, as a CSV file.

Importing torch takes seconds, so functions import it once the arguments have been checked.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.table import Table

from cmu_lightning.console import PlainConsole, say
from cmu_lightning.deploy.classifier import Classifier, Predictions, decode_like
from cmu_lightning.deploy.finished import FinishedRun
from cmu_lightning.deploy.output import refuse_folder, refuse_unwritable
from cmu_lightning.errors import UserError
from cmu_lightning.escaping import csv_cell, csv_file_name
from cmu_lightning.files import write_atomically
from cmu_lightning.parsing import Parser, read_env

if TYPE_CHECKING:
    from torch import Tensor

    from cmu_lightning.data.samples import Samples

Row = dict[str, Any]
"""A row of the file, by the names of the columns."""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: Command line after the word predict.

    Returns:
        The exit code.

    Raises:
        UserError: The arguments cannot work, or a part of the run is missing.
    """
    given = _parser().parse_args(list(arguments))
    read_env()
    run = FinishedRun.open(given.run)
    files = None if given.images is None else find_images(given.images)
    refuse_folder(given.out, "CSV")
    refuse_unwritable(given.out)
    rows = _predict(run, files)
    if files is not None and files.left_out:
        from cmu_lightning.data.datasets.image_files import describe

        say(f"skipped: {describe(files.left_out)}")
    try:
        write_atomically(given.out, as_csv(rows))
    except OSError as error:
        raise UserError(f"{given.out} cannot be written ({error}): give another --out") from error
    _show(rows, given.out)
    return 0


def _parser() -> Parser:
    """Return the parser of the command's arguments."""
    parser = Parser("predict", "Write the predictions of a run and of its original as a CSV file.")
    parser.add_argument("run", type=Path, metavar="RUN", help="Folder of a finished run.")
    parser.add_argument(
        "--out", type=Path, default=Path("predictions.csv"), metavar="FILE", help="Default: %(default)s."
    )
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        metavar="FOLDER_OR_FILE",
        help="Images to classify. Default: the training and validation samples of the run.",
    )
    return parser


class Found(NamedTuple):
    """Image files to classify: all files, those that were named individually, and the skipped ones by reason."""

    files: list[Path]
    named: frozenset[Path]
    left_out: dict[str, list[str]]


def find_images(paths: Sequence[Path]) -> Found:
    """Return image files as they are given, and all images in the folders among them.

    Args:
        paths: Files and folders; folders are searched with all folders within them.

    Raises:
        UserError: A path does not exist, a folder holds no images, or a name cannot be written to a CSV file.
    """
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no image {path}: give image files, or a folder that holds some")
    from PIL import Image

    from cmu_lightning.data.datasets import image_files

    found = Found([], frozenset(path for path in paths if not path.is_dir()), {})
    suffixes = Image.registered_extensions()
    for path in paths:
        inside = sorted(map(Path, image_files.find_images(path, suffixes, found.left_out))) if path.is_dir() else [path]
        if not inside:
            others = f" (skipped: {image_files.describe(found.left_out)})" if found.left_out else ""
            raise UserError(f"{path} holds no images{others}: give image files, or a folder that holds some")
        found.files.extend(inside)
    for path in found.files:
        if not image_files.can_be_listed(path):
            raise UserError(f"the name of {str(path)!r} cannot be written to a CSV file: rename the image")
    return found


def _is_image(path: Path) -> bool:
    """Return whether a file can be decoded as an image, of whatever kind."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except Exception:  # PIL raises many types, depending on the bytes
        return False
    return True


def _predict(run: FinishedRun, files: Found | None) -> list[Row]:
    """Return the rows of the file.

    Args:
        run: Run to predict with; its original predicts the same samples.
        files: Images to classify; None for the run's own samples.
    """
    with PlainConsole(stderr=True).status(f"reading {run.folder}"):
        from cmu_lightning.experiment.restore import restore_data, restore_network

        own = (run.config.get("model") or {}).get("init_args", {})
        where = own.get("original_key"), own.get("original_prefix")
        before = restore_network(run.folder, run.original_checkpoint(), *where)
        classifier = Classifier([before, restore_network(run.folder)], restore_data(run.folder))
    return list(_rows_of_data(classifier, run.is_original) if files is None else _rows_of_files(classifier, files))


def _rows_of_data(classifier: Classifier, is_original: bool) -> Iterator[Row]:
    """Yield one row for each sample of S_tr, then one for each validation sample.

    Args:
        classifier: Networks before and after, with the data of the run.
        is_original: Whether the run is an original, which deletes nothing: all of its S_tr is retain.
    """
    data = classifier.data
    deleted = [not is_original and flag for flag in data.samples.deleted.tolist()]
    splits = ["deleted" if flag else "retain" for flag in deleted]
    # Indices count the stored training samples, as lists of flagged samples do. Validation samples are held out of
    # them, or form a separate stored split with its own indices and names.
    train_indices, validation_indices = (~data.held).nonzero().flatten().tolist(), data.validated.tolist()
    validation_names = data.names if data.held.any() else data.validation_names
    yield from _rows_of_samples(classifier, data.samples, splits, train_indices, data.names)
    splits = ["validation"] * len(validation_indices)
    yield from _rows_of_samples(classifier, data.validation, splits, validation_indices, validation_names)


def _rows_of_samples(
    classifier: Classifier, samples: "Samples", splits: list[str], indices: list[int], names: list[str] | None
) -> Iterator[Row]:
    """Yield one row for each of n samples.

    Args:
        classifier: Networks before and after.
        samples: Samples to classify.
        splits: Name of the part that each one belongs to.
        indices: Place of each one among the stored samples.
        names: Name of the file of every stored sample; None if they are no files.
    """
    if not splits:
        return
    compared = _compare(*classifier.classify_samples(samples))
    for split, index, label, predicted in zip(splits, indices, samples.given_labels.tolist(), compared, strict=True):
        row = {"split": split, "index": index, "name": names[index] if names else "", "label": label, **predicted}
        yield row | _class_names(row, classifier.data.classes)


def _classify_files(classifier: Classifier, found: Found) -> tuple[list[Path], list[Predictions]]:
    """Return the files that are images, and the predictions before and after on them; no trigger is added.

    Args:
        classifier: Networks before and after.
        found: Images to classify; those of a folder that cannot be decoded are left out.

    Raises:
        UserError: An image that was named cannot be read, all are left out, or one has another size than the
            data.
    """
    from cmu_lightning.data.batches import evaluation_size

    # Files are read batch by batch, so that any number of them fits into memory.
    files, kept = found.files, list[Path]()
    size = evaluation_size(classifier.data.samples.images)
    parts = [files[start : start + size] for start in range(0, len(files), size)]
    batches = (batch for part in parts if len(batch := _read(classifier, part, found, kept)))
    predictions = classifier.classify(batches, len(parts))
    if not kept:
        raise UserError("none of the images can be decoded: give others to --images")
    return kept, predictions


def _read(classifier: Classifier, files: Sequence[Path], found: Found, kept: list[Path]) -> "Tensor":
    """Return images as the networks take them, shape (n, C, H, W), normalised.

    Args:
        classifier: Networks, with the data whose preparation counts.
        files: Images to read.
        found: All of them; those that cannot be decoded are added to its `left_out`.
        kept: The others are added to it.
    """
    import torch

    images = []
    for file in files:
        try:
            images.append(torch.from_numpy(decode_like(classifier.data, file)))
        except UserError:
            if file in found.named or _is_image(file):
                raise
            found.left_out.setdefault("damaged", []).append(str(file))
        else:
            kept.append(file)
    if not images:
        return torch.empty(0)
    return classifier.pixels(torch.stack(images), torch.zeros(len(images), dtype=torch.bool))


def _rows_of_files(classifier: Classifier, found: Found) -> Iterator[Row]:
    """Yield one row for each image file.

    Args:
        classifier: Networks before and after.
        found: Images to classify.
    """
    files, predictions = _classify_files(classifier, found)
    for file, predicted in zip(files, _compare(*predictions), strict=True):
        yield {"name": str(file), **predicted} | _class_names(predicted, classifier.data.classes)


def _compare(before: Predictions, after: Predictions) -> Iterator[Row]:
    """Yield the columns that say what the two networks predict for a sample."""
    columns = (field.tolist() for field in (*before, *after))
    for old, old_probability, new, new_probability in zip(*columns, strict=True):
        yield {
            "before": old,
            "before_probability": f"{old_probability:.6f}",
            "after": new,
            "after_probability": f"{new_probability:.6f}",
            "changed": "true" if new != old else "false",
        }


def _class_names(row: Row, classes: list[str] | None) -> Row:
    """Return the columns that name the classes of a row; none if classes have no names."""
    if classes is None:
        return {}
    return {f"{column}_class": classes[row[column]] for column in ("label", "before", "after") if column in row}


def as_csv(rows: list[Row]) -> str:
    """Return the text of a CSV file.

    Args:
        rows: At least one; all have the same columns.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    # A spreadsheet would calculate names that begin like a formula.
    safe = dict.fromkeys(rows[0], csv_cell) | ({"name": csv_file_name} if "name" in rows[0] else {})
    writer.writerows({column: safe[column](cell) for column, cell in row.items()} for row in rows)
    return text.getvalue()


def _show(rows: list[Row], out: Path) -> None:
    """Print how many predictions of each split have changed, and where the file is."""
    table = Table("", "images", "changed", "fraction")
    for split in dict.fromkeys(row.get("split", "images") for row in rows):
        changed = [row["changed"] == "true" for row in rows if row.get("split", "images") == split]
        table.add_row(str(split), f"{len(changed):,}", f"{sum(changed):,}", f"{sum(changed) / len(changed):.4f}")
    console = PlainConsole()
    console.print(table)
    console.print(str(out), soft_wrap=True, markup=False)
