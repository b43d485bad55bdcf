"""What a run started from, found again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.identity import identity
from cmu_lightning.experiment.originals import original_at
from cmu_lightning.experiment.restore import read_config
from cmu_lightning.experiment.run import read_metrics
from cmu_lightning.serving.finished import again, runs_dir_of


def original_checkpoint(folder: Path, stored: dict[str, Any]) -> Path:
    """The checkpoint that a run started from; an original's own.

    Args:
        folder: Folder of the run.
        stored: Its results.

    Raises:
        UserError: It is gone.
    """
    if "original" not in stored:
        return folder / "last.ckpt"
    for path in _places(folder, stored):
        if path.is_file() and original_at(str(path), runs_dir_of(folder)).hash == stored["original"]:
            return path
    gone = f"the weights of the original {stored['original']} that {folder} started from are gone"
    place = f"{stored['setting']}/{stored['method']}"
    if given := _given(folder):
        seen = "" if Path(given).is_absolute() else f", or be in the folder where {given} leads to them"
        raise UserError(f"{gone}: bring {given} back{seen}")
    if "/".join(folder.resolve().parts[-3:-1]) != place:
        raise UserError(f"{gone}, for this is not where the run was made: put it back to {place} in its runs folder")
    raise UserError(f"{gone}: delete {folder}/metrics.json and run `{again(folder)}`, which makes them again")


def original_metrics(folder: Path, stored: dict[str, Any]) -> dict[str, Any] | None:
    """The results of the original, also where its weights are gone; None if there are none, or the run has the same.

    Args:
        folder: Folder of the run.
        stored: Its results.
    """
    for path in _places(folder, stored) if "original" in stored else ():
        is_run = (path.parent / "config.yaml").exists()  # and no folder of a user's own
        found = read_metrics(path.parent) if is_run else None
        if found is not None and found["hash"] == stored["original"]:
            return found
    return _kept(folder, stored)


def _kept(folder: Path, stored: dict[str, Any]) -> dict[str, Any] | None:
    """The results of the run of `Keep` beside it, which measures an original that is no run."""
    for path in sorted(runs_dir_of(folder).glob(f"{stored['setting']}/Keep/*")):
        found = read_metrics(path)
        alike = found and all(found.get(name) == stored.get(name) for name in ("original", "content", "fingerprint"))
        if found and alike and (path / "config.yaml").exists() and _measured_on(path) == _measured_on(folder):
            return found if found["hash"] != stored["hash"] else None
    return None


def _measured_on(folder: Path) -> dict[str, Any]:
    """What accuracies depend on besides weights: how images are prepared, S_f, the precision."""
    config = read_config(folder)
    discovery = config["data"]["init_args"].get("discovery") or {}
    is_list = discovery.get("class_path", "").endswith(".Flagged")  # whose content is compared already
    named = identity(config, "steps", frozenset({"discovery", "seed"} if is_list else ()), None)
    data = {key: value for key, value in named["data"]["init_args"].items() if key not in ("root", "path")}
    trainer = {key: named["trainer"][key] for key in ("precision", "limit_val_batches", "limit_test_batches")}
    return {"data": data, "network": named["network"], "trainer": trainer}


def _places(folder: Path, stored: dict[str, Any]) -> Iterator[Path]:
    """Where the original's checkpoint may lie: where the run was told, or in the runs folder."""
    given = _given(folder)
    if given:
        yield Path(given)
    for found in sorted(runs_dir_of(folder).glob(f"{stored['setting']}/*/*-{stored['original']}")):
        yield found / "last.ckpt"


def _given(folder: Path) -> str | None:
    """The checkpoint that the run was told to start from."""
    given: str | None = read_config(folder)["model"]["init_args"].get("original")
    return given
