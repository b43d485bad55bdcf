"""The parts of a run that Weights & Biases shows: config, results, files and pictures."""

from inspect import signature
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from cmu_lightning.console import say
from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.errors import UserError, first_line
from cmu_lightning.experiment.results import describe_run
from cmu_lightning.experiment.run import COST, MEASURED, Run
from cmu_lightning.experiment.wandb_logger import WandbLogger
from cmu_lightning.experiment.wandb_settings import in_sweep
from cmu_lightning.files import parse_json
from cmu_lightning.unlearning.stage import Stage

NO_IDENTITY = {*MEASURED, *COST, "environment", "config", "chosen", "dropped_checkpoint"}
"""What of a `metrics.json` is no part of W&B's config; the config itself is logged by dotted names."""


class Publish(Callback):
    """Sends config and pictures as soon as a run's data have been set up, and stops the run when W&B asks for it.

    Args:
        logger: Logger to send them by.
        config: Resolved config, as plain data.
        run: Run to show.
        original: Run that it starts from; None for an original.
    """

    def __init__(self, logger: WandbLogger, config: dict[str, Any], run: Run, original: Run | None) -> None:
        self.logger, self.config, self.run, self.original = logger, config, run, original

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send config and pictures on rank 0.

        Args:
            trainer: Trainer of the run.
            pl_module: Stage of the run.
        """
        if trainer.is_global_zero:
            stage: Any = pl_module
            description = describe_run(stage, stage.data, self.config, self.run, self.original)
            # The description comes last: an original that was given by its path has its own seed.
            self.logger.describe(logged_config(self.config, description))
            self.logger.attempt(lambda: log_manipulated_images(self.logger, stage))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Treat SIGTERM in a trial as W&B's request to stop, which an agent passes on in this way; it is no failure.

        Args:
            trainer: Trainer of the run.
            pl_module: Stage of the run.
            exception: Exception that ends the training.
        """
        if isinstance(exception, SIGTERMException) and in_sweep():
            self.logger.stopped = True

    def on_train_batch_end(self, *_: Any) -> None:
        """End a run that W&B asked to stop, in case the client's interrupt was lost.

        Raises:
            KeyboardInterrupt: W&B asked the run to stop.
        """
        if self.logger.stopped:
            raise KeyboardInterrupt


def publish_results(logger: WandbLogger, config: dict[str, Any], run: Run) -> None:
    """Send the stored results of a finished run: the numbers of `metrics.json`, its files and its histogram.

    Args:
        logger: Logger to send them by.
        config: Resolved config, as plain data.
        run: Run that has finished.
    """
    metrics = run.metrics or {}
    description = {key: value for key, value in metrics.items() if key not in NO_IDENTITY}
    logger.describe(logged_config(config, description))
    logger.attempt(lambda: _send_results(logger, run, metrics))


def _send_results(logger: WandbLogger, run: Run, metrics: dict[str, Any]) -> None:
    """Send numbers, files, the histogram, and weights if requested."""
    experiment = logger.experiment
    log_ratios(logger, run.folder / "importance_ratios.json")
    experiment.summary.update({key: value for key, value in metrics.items() if key != "config"})
    for name in ("config.yaml", "metrics.json"):
        if (run.folder / name).exists():  # W&B has a config.yaml of its own, so the folder's name stays in front
            experiment.save(str(run.folder / name), base_path=str(run.folder.parent), policy="now")
    if logger.uploads_model and run.checkpoint.exists():
        upload_weights(logger, run, metrics)


def upload_weights(logger: WandbLogger, run: Run, metrics: dict[str, Any]) -> None:
    """Upload a run's weights as an artifact that holds its measurements as metadata.

    Args:
        logger: Logger to send them by.
        run: Run that has finished.
        metrics: Results of the run.

    Raises:
        UserError: This is a trial of a sweep, and W&B does not take the weights.
    """
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


def logged_config(config: dict[str, Any], description: dict[str, Any]) -> dict[str, Any]:
    """Return W&B's config of a run: the resolved config without the Trainer's defaults, and the description.

    Args:
        config: Resolved config, as plain data.
        description: Result of `describe_run`.
    """
    defaults = {name: each.default for name, each in signature(Trainer.__init__).parameters.items()}
    given = {name: value for name, value in config.get("trainer", {}).items() if value != defaults.get(name)}
    rest = {name: value for name, value in config.items() if name != "trainer"}
    return dotted_names(rest | ({"trainer": given} if given else {})) | flatten_description(description)


def flatten_description(description: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a run as W&B's columns: hyperparameters next to the rest, and no dots.

    Args:
        description: Result of `describe_run`.
    """
    rest = {key: value for key, value in description.items() if key != "hyperparameters"}
    job_type = {"job_type": "unlearn" if "original" in rest else "original"}
    return {**description["hyperparameters"], **job_type, **rest}


def dotted_names(config: Any, name: str = "") -> dict[str, Any]:
    """Return a config by dotted names as sweep files spell them, without W&B's own options.

    Args:
        config: Config, or a part of it, as plain data.
        name: Dotted name of the part.

    >>> dotted_names({"data": {"class_path": "cmu_lightning.data.A", "init_args": {"identified": 0.5}}})
    {'data.class_path': 'A', 'data.identified': 0.5}
    """
    if isinstance(config, str) and name.endswith("class_path") and config.startswith("cmu_lightning."):
        return {name: config.rpartition(".")[2]}
    if not isinstance(config, dict) or not config:
        return {name: config}
    values: dict[str, Any] = {}
    for key, value in config.items():
        if name or key != "wandb":
            values |= dotted_names(value, name if key == "init_args" else f"{name}.{key}".removeprefix("."))
    return values


def log_manipulated_images(logger: WandbLogger, stage: Stage) -> None:
    """Log some images of S_m as they are trained on, with their trigger if there is one.

    Args:
        logger: Logger to send them by.
        stage: Stage whose data have been set up.
    """
    import wandb

    data: CorruptedDataModule = stage.data
    samples = data.samples
    images = data.stamped().permute(0, 2, 3, 1)  # (n, C, H, W) to (n, H, W, C)
    chosen = samples.manipulated.nonzero().flatten()[: len(images)]
    if not len(chosen):
        return
    true, given = samples.true_labels[chosen].tolist(), samples.given_labels[chosen].tolist()
    panel = [
        wandb.Image(image.squeeze(2).numpy(), caption=f"a {was}, labelled {now}")
        for image, was, now in zip(images, true, given, strict=True)
    ]
    logger.experiment.log({"manipulated_images": panel})


def log_ratios(logger: WandbLogger, path: Path) -> None:
    """Log the histogram of importance ratios that methods of SSD's family leave (paper, Figure 3).

    Args:
        logger: Logger to send it by.
        path: Path of the run's `importance_ratios.json`, whether it exists or not.
    """
    import wandb

    if path.exists():
        try:
            summary = parse_json(path.read_bytes())
            histogram = wandb.Histogram(np_histogram=(summary["counts"], summary["log10_edges"]))
        except (ValueError, KeyError, TypeError):
            say(f"{path} is damaged: its histogram is not logged")
            return
        logger.experiment.log({"importance_ratios": histogram})
