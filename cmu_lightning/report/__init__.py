"""`python -m cmu_lightning report`: from finished runs to figures, tables and one page."""

from collections.abc import Sequence
from pathlib import Path


def report(
    runs: str | Path, out: str | Path, *, select: str = "paper", settings: Sequence[str] = (), style: str = "screen"
) -> Path:
    """Write a report, as the command of that name does, and return the path of its page.

    >>> report("runs", "report", settings=["poison_digits"])  # doctest: +SKIP
    PosixPath('report/index.html')

    Args:
        runs: Runs folder of `fit` and `sweep`, or a file with its runs.
        out: Folder of the report: a new or empty one, or that of an earlier report.
        select: The rule by which hyperparameters are chosen, one of `cmu_lightning.selection.RULES`.
        settings: Names of the settings to report; none reports all.
        style: `screen`, or `paper` for figures in a serif font without titles and notes.

    Raises:
        UserError: There is nothing to report, or the report cannot be written.
    """
    from cmu_lightning.report.command import STYLES, check_paths, filtered
    from cmu_lightning.selection import RULES

    if select not in RULES or style not in STYLES:
        from cmu_lightning.errors import UserError

        raise UserError(
            f"select={select!r}, style={style!r}: give one of the rules {', '.join(RULES)} and one of the styles "
            f"{', '.join(STYLES)}"
        )
    source, folder = Path(runs), Path(out)
    check_paths(source, folder)
    from cmu_lightning.report.build import build, refuse_foreign, write_report
    from cmu_lightning.report.load import read_runs

    refuse_foreign(folder)
    write_report(build(filtered(read_runs(source), settings), select), folder, style == "paper")
    return folder / "index.html"
