"""What a run shows on Weights & Biases: its config, its results, its files and pictures."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from cmu_lightning.console import say
from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.errors import UserError, first_line
from cmu_lightning.experiment.results import described
from cmu_lightning.experiment.run import COST, MEASURED, Run
from cmu_lightning.experiment.wandb_logger import WandbLogger
from cmu_lightning.experiment.wandb_settings import in_sweep
from cmu_lightning.unlearning.stage import Stage


class Publish(Callback):
    """Sends config and pictures as soon as a run's data are there, and heeds W&B's wish that it stops.

    Args:
        logger: Where to.
        config: Resolved.
        run: What is run.
        original: What it starts from; None for an original.
    """

    def __init__(self, logger: WandbLogger, config: dict[str, Any], run: Run, original: Run | None) -> None:
        self.logger, self.config, self.run, self.original = logger, config, run, original

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """On rank 0."""
        if trainer.is_global_zero:
            stage: Any = pl_module
            description = described(stage, stage.data, self.config, self.run, self.original)
            self.logger.describe(dotted(self.config) | flat(description))  # an original's seed is its own
            show_manipulated(self.logger, stage)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """To a trial, SIGTERM is how an agent hands W&B's stop on, and no failure."""
        if isinstance(exception, SIGTERMException) and in_sweep():
            self.logger.stopped = True

    def on_train_batch_end(self, *_: Any) -> None:
        """End a run that W&B asked to stop, should the interrupt that says so have been lost on its way."""
        if self.logger.stopped:
            raise KeyboardInterrupt


def publish_results(logger: WandbLogger, config: dict[str, Any], run: Run) -> None:
    """Send what a finished run has stored: its numbers as they are in `metrics.json`, its files, its histogram."""
    metrics = run.metrics or {}
    experiment = logger.experiment
    unlike = {*MEASURED, *COST, "environment", "dropped_checkpoint"}
    logger.describe(dotted(config) | flat({key: value for key, value in metrics.items() if key not in unlike}))
    show_ratios(logger, run.folder / "importance_ratios.json")
    experiment.summary.update(metrics)
    for name in ("config.yaml", "metrics.json"):
        if (run.folder / name).exists():  # W&B has a config.yaml of its own, so the folder's name stays in front
            experiment.save(str(run.folder / name), base_path=str(run.folder.parent), policy="now")
    if logger.uploads_model and run.checkpoint.exists():
        upload(logger, run, metrics)


def upload(logger: WandbLogger, run: Run, metrics: dict[str, Any]) -> None:
    """The weights, as an artifact that says what they reach."""
    import wandb

    numbers = {key: value for key, value in metrics.items() if key in MEASURED}
    artifact = wandb.Artifact(f"{run.setting}-{run.method}-{run.hash}", type="model", metadata=numbers)
    artifact.add_file(str(run.checkpoint))
    try:
        logger.experiment.log_artifact(artifact)
    except (wandb.Error, OSError) as error:
        reason = first_line(error)
        if in_sweep():
            raise UserError(f"W&B does not take the weights of this trial ({reason}): start it again") from error
        say(f"W&B does not take the weights ({reason}): they stay in {run.checkpoint}")


def flat(description: dict[str, Any]) -> dict[str, Any]:
    """The identity as W&B's columns: hyperparameters beside the rest, and no dots."""
    rest = {key: value for key, value in description.items() if key != "hyperparameters"}
    job_type = {"job_type": "unlearn" if "original" in rest else "original"}
    return {**description["hyperparameters"], **job_type, **rest}


def dotted(config: Any, name: str = "") -> dict[str, Any]:
    """A config by dotted names as sweep files spell them, such as `data.identified` and `model.class_path`."""
    if isinstance(config, str) and name.endswith("class_path") and config.startswith("cmu_lightning."):
        return {name: config.rpartition(".")[2]}
    if not isinstance(config, dict) or not config:
        return {name: config}
    values: dict[str, Any] = {}
    for key, value in config.items():
        if name or key != "wandb":
            values |= dotted(value, name if key == "init_args" else f"{name}.{key}".removeprefix("."))
    return values


def show_manipulated(logger: WandbLogger, stage: Stage) -> None:
    """Images as they are trained on, with the trigger if there is one."""
    import wandb

    data: CorruptedDataModule = stage.data
    samples = data.samples
    images = data.stamped().permute(0, 2, 3, 1)
    chosen = samples.manipulated.nonzero().flatten()[: len(images)]
    if not len(chosen):
        return
    clean, given = samples.true_labels[chosen].tolist(), samples.given_labels[chosen].tolist()
    panel = [
        wandb.Image(image.squeeze(2).numpy(), caption=f"a {was}, labelled {now}")
        for image, was, now in zip(images, clean, given, strict=True)
    ]
    logger.experiment.log({"manipulated_images": panel})


def show_ratios(logger: WandbLogger, path: Path) -> None:
    """The histogram that methods of SSD's family leave (paper, Figure 3)."""
    import wandb

    if path.exists():
        summary = json.loads(path.read_text())
        histogram = wandb.Histogram(np_histogram=(summary["counts"], summary["log10_edges"]))
        logger.experiment.log({"importance_ratios": histogram})
