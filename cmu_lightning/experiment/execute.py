"""The execution of one run, from the decision about the remaining work to `metrics.json`."""

import os
import shutil
from contextlib import ExitStack, suppress
from copy import copy
from typing import Any

import yaml
from lightning.pytorch import Trainer

from cmu_lightning.console import say
from cmu_lightning.data import CorruptedDataModule, Detector, Flagged, Unknown
from cmu_lightning.data.validation import check_deletion_set
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.originals import find_or_train
from cmu_lightning.experiment.rank_zero import INHERITED, decide
from cmu_lightning.experiment.restore import read_config
from cmu_lightning.experiment.results import collect_metrics, describe_run
from cmu_lightning.experiment.run import KEEP_WEIGHTS, ROWS, Run, write_metrics
from cmu_lightning.files import write_atomically
from cmu_lightning.unlearning import Stage, Unlearner
from cmu_lightning.unlearning.checkpoint import is_damaged, read_checkpoint, save_whole
from cmu_lightning.unlearning.scrub import Rewind
from cmu_lightning.unlearning.stage import RECORD


class Job:
    """A run to execute: train, measure and store its stage, and do nothing twice.

    Args:
        trainer: Trainer that has not started yet.
        stage: Stage of the run.
        data: Data of the stage.
        run: Folder of the run.
        original: Run that the stage starts from; None for an original.
        config: Resolved config, as plain data.
    """

    def __init__(
        self,
        trainer: Trainer,
        stage: Stage,
        data: CorruptedDataModule,
        run: Run,
        original: Run | None,
        config: dict[str, Any],
    ) -> None:
        self.trainer, self.stage, self.data = trainer, stage, data
        self.run, self.original, self.config = run, original, config

    def execute(self, ckpt_path: str | None) -> bool:
        """Execute the remaining part of the run.

        Args:
            ckpt_path: Checkpoint to resume; default the run's last one, if there is one.

        Returns:
            Whether nothing was left to do.

        Raises:
            UserError: The run cannot be executed with these options.
        """
        with ExitStack() as held:
            held.callback(os.environ.pop, INHERITED, None)
            decision = decide(self.trainer, lambda: self._begin(held, ckpt_path))
            if not decision["finished"]:
                self._train_and_measure(decision)
        return bool(decision["finished"])

    def _begin(self, held: ExitStack, ckpt_path: str | None) -> dict[str, Any]:
        """Lock the run on rank 0, and decide for all ranks what remains, from where, and with which original."""
        held.enter_context(self.run.locked())
        if ckpt_path is not None:
            self._check_checkpoint(ckpt_path)
        if self.run.metrics is not None:
            self._check_fingerprint(self.run.metrics["fingerprint"])
            self._follow_data()
            if "dropped_checkpoint" in self.run.metrics:  # a process that was killed has said so, and not done it
                self.run.checkpoint.unlink(missing_ok=True)
            return {"finished": True}
        if not self.run.folder.exists():
            held.callback(self._remove_empty_folder)
        # Resume, or start: rows that an attempt logged before its first checkpoint would be logged twice.
        resume = ckpt_path or self._find_checkpoint()
        if resume is None:
            shutil.rmtree(self.run.folder / ROWS, ignore_errors=True)
        else:
            self._check_checkpoint(resume)
        original = None
        if isinstance(self.stage, Unlearner) and self.original:
            original = self.stage.original
            if not original:
                if self.original.metrics is None:
                    self._check_deletion_set()
                original = find_or_train(self.original, self.config, self.data.deletion_arguments)
        return {"finished": False, "resume": resume, "original": original}

    def _follow_data(self) -> None:
        """Let the config of a finished run say where its data are now: they may have moved since."""
        with suppress(UserError, OSError):  # a damaged config is named where it is read; a folder may be read-only
            stored = read_config(self.run.folder)
            if stored.get("data") != self.config["data"]:
                moved = stored | {"data": self.config["data"]}
                write_atomically(self.run.config, yaml.safe_dump(moved, sort_keys=False))

    def _find_checkpoint(self) -> str | None:
        """Return the run's last checkpoint; None if training has to start, after damaged files were removed."""
        last, damaged = self.run.checkpoint, None
        if last.is_file():
            damaged = last if is_damaged(last) else Rewind.find_damaged(self.run.folder)
        if damaged is not None:
            say(f"{damaged} is damaged: this unfinished run is trained from the beginning")
            Rewind.clean(self.run.folder)
            last.unlink()
        return str(last) if last.exists() else None

    def _remove_empty_folder(self) -> None:
        """Remove a folder in which nothing was measured; rows that were logged stay for early termination."""
        folder = self.run.folder
        if folder.exists() and not self.run.checkpoint.exists() and not any(folder.glob(f"{ROWS}/*/metrics.csv")):
            shutil.rmtree(folder)
            for parent in (folder.parent, folder.parent.parent):
                with suppress(OSError):  # other runs are in it
                    parent.rmdir()

    def _check_deletion_set(self) -> None:
        """Refuse an impossible S_f before an original is trained for it."""
        is_missing = isinstance(self.data.manipulation, Unknown) and not isinstance(self.data.discovery, Detector)
        if is_missing or isinstance(self.data.discovery, Flagged):
            data = copy(self.data)  # the images are freed before the original is trained
            data.prepare_data()
            data.setup()
            check_deletion_set(data.samples.deleted)

    def _check_fingerprint(self, fingerprint: int) -> None:
        """Refuse a finished run of other data, which the hash does not show for a custom class without `content()`."""
        data = self.data
        if not data.is_vouched_for:
            data.prepare_data()
            data.setup()
            if data.fingerprint != fingerprint:
                raise UserError(
                    f"{self.run.folder} was made with other data than those in {data.root}: give another --setting, or "
                    f"let {type(data).__name__}.content() tell them apart"
                )

    def _check_checkpoint(self, ckpt_path: str) -> None:
        """Refuse to resume from another run's checkpoint."""
        record = read_checkpoint(ckpt_path).get(RECORD, {})
        if record.get("hash") != self.run.hash:
            raise UserError(
                f"--ckpt_path resumes an interrupted run, and {ckpt_path} belongs to another one "
                f"({record.get('method', 'unknown')} {record.get('hash', '')}): to start from an original's weights "
                "give it as --model.original"
            )

    def _train_and_measure(self, decision: dict[str, Any]) -> None:
        """Train unless the last checkpoint is the final one; measure its weights; store the results on rank 0."""
        stage, data = self.stage, self.data
        stage.record = {"hash": self.run.hash, "method": self.run.method, "setting": self.run.setting}
        stage.folder = self.run.folder
        if isinstance(stage, Unlearner):
            stage.original = decision["original"]
        # Only the checkpoint of a finished stage has no optimiser state.
        resume = decision["resume"]
        checkpoint = None if resume is None else read_checkpoint(resume)
        if checkpoint is None or "optimizer_states" in checkpoint:
            if checkpoint is not None:
                data.resume(checkpoint[type(data).__qualname__])
            self.trainer.fit(stage, datamodule=data, ckpt_path=resume, weights_only=True)
            save_whole(self.trainer, self.run.checkpoint, weights_only=True)
        last = str(self.run.checkpoint)
        self.trainer.test(stage, datamodule=data, ckpt_path=last, weights_only=True, verbose=False)
        if self.trainer.is_global_zero:
            description = describe_run(stage, data, self.config, self.run, self.original)
            self._store(collect_metrics(stage, description, self.config))

    def _store(self, metrics: dict[str, Any]) -> None:
        """Write the results, then delete the weights if they are not to be kept.

        In this order `metrics.json` never promises weights that are gone.
        """
        policy = self.config["checkpoints"]
        is_chosen_later = KEEP_WEIGHTS in os.environ
        drops = policy == "none" or (policy == "chosen" and self.original is not None and not is_chosen_later)
        if drops:
            metrics["dropped_checkpoint"] = self.run.checkpoint.name
        Rewind.clean(self.run.folder)
        write_metrics(self.run.folder, metrics)
        if drops:
            self.run.checkpoint.unlink()
