"""One run, from the decision what is left to do to `metrics.json`."""

import os
import shutil
from contextlib import ExitStack, suppress
from copy import copy
from typing import Any

from lightning.pytorch import Trainer

from cmu_lightning.data import CorruptedDataModule, Detector, Flagged, Unknown
from cmu_lightning.data.validation import check_deletion_set
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.originals import find_or_train
from cmu_lightning.experiment.rank_zero import INHERITED, decide
from cmu_lightning.experiment.results import described, metrics_of
from cmu_lightning.experiment.run import ROWS, Run
from cmu_lightning.files import write_json
from cmu_lightning.unlearning import Stage, Unlearner
from cmu_lightning.unlearning.checkpoint import read_checkpoint, save_whole
from cmu_lightning.unlearning.scrub import Rewind
from cmu_lightning.unlearning.stage import RECORD


class Job:
    """Trains a stage, measures it, and stores the results; whatever of that is done already is not done again.

    Args:
        trainer: Not started yet.
        stage: What is to be run.
        data: What it runs on.
        run: Where it goes.
        original: What it starts from; None for an original.
        config: Resolved, as plain data.
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

    def do(self, ckpt_path: str | None) -> bool:
        """Do what is left.

        Args:
            ckpt_path: Checkpoint to go on from; default the run's last one, if there is one.

        Returns:
            Whether nothing was left.
        """
        with ExitStack() as held:
            held.callback(os.environ.pop, INHERITED, None)
            decision = decide(self.trainer, lambda: self._begin(held, ckpt_path))
            if not decision["finished"]:
                self._train_and_measure(decision)
        return bool(decision["finished"])

    def _leave_nothing_empty(self) -> None:
        """Take a new folder away again if nothing was measured: early termination compares what was."""
        folder = self.run.folder
        if folder.exists() and not self.run.checkpoint.exists() and not any(folder.glob(f"{ROWS}/*/metrics.csv")):
            shutil.rmtree(folder)
            for parent in (self.run.folder.parent, self.run.folder.parent.parent):
                with suppress(OSError):  # not empty
                    parent.rmdir()

    def _begin(self, held: ExitStack, ckpt_path: str | None) -> dict[str, Any]:
        """What rank 0 settles for all: whether there is anything to do, from where, and with which original."""
        held.enter_context(self.run.locked())
        if ckpt_path is not None:
            self._refuse_foreign(ckpt_path)
        if self.run.metrics is not None:
            self._refuse_other_data(self.run.metrics["fingerprint"])
            return {"finished": True}
        if not self.run.folder.exists():
            held.callback(self._leave_nothing_empty)
        resume = ckpt_path or (str(self.run.checkpoint) if self.run.checkpoint.exists() else None)
        if resume is None:  # of an attempt that ended before its first checkpoint
            shutil.rmtree(self.run.folder / ROWS, ignore_errors=True)
        if resume is not None:
            self._refuse_foreign(resume)
        original = None
        if isinstance(self.stage, Unlearner) and self.original:
            if self.original.metrics is None and not self.stage.original:
                self._refuse_unusable()
            original = self.stage.original or find_or_train(self.original, self.config, self.data.deletion_arguments)
        return {"finished": False, "resume": resume, "original": original}

    def _refuse_unusable(self) -> None:
        """A list that cannot be, or none where one is needed, before an original is trained for it."""
        unknown = isinstance(self.data.manipulation, Unknown) and not isinstance(self.data.discovery, Detector)
        if unknown or isinstance(self.data.discovery, Flagged):
            data = copy(self.data)  # which goes again, with its images
            data.prepare_data()
            data.setup()
            check_deletion_set(data.samples.deleted)

    def _refuse_other_data(self, fingerprint: int) -> None:
        """Of a class of one's own that says nothing of its files, their content tells whether the run is of them."""
        data = self.data
        if not data.is_vouched_for:
            data.prepare_data()
            data.setup()
            if data.fingerprint != fingerprint:
                raise UserError(
                    f"{self.run.folder} is of other data than those in {data.root}: give another --setting, or have "
                    f"{type(data).__name__}.content() tell them apart"
                )

    def _refuse_foreign(self, ckpt_path: str) -> None:
        """A checkpoint can be resumed by the run that wrote it alone."""
        record = read_checkpoint(ckpt_path).get(RECORD, {})
        if record.get("hash") != self.run.hash:
            raise UserError(
                f"--ckpt_path resumes an interrupted run, and {ckpt_path} is of another one "
                f"({record.get('method', 'unknown')} {record.get('hash', '')}): to start from an original's weights "
                "give it as --model.original"
            )

    def _train_and_measure(self, decision: dict[str, Any]) -> None:
        """All that is measured is measured on the weights in `last.ckpt`."""
        model, data = self.stage, self.data
        model.record = {"hash": self.run.hash, "method": self.run.method, "setting": self.run.setting}
        model.folder = self.run.folder
        if isinstance(model, Unlearner):
            model.original = decision["original"]
        resume, last = decision["resume"], str(self.run.checkpoint)
        if resume is None or "optimizer_states" in read_checkpoint(resume):
            self.trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
            save_whole(self.trainer, self.run.checkpoint, weights_only=True)
        self.trainer.test(model, datamodule=data, ckpt_path=last, weights_only=True, verbose=False)
        if self.trainer.is_global_zero:
            description = described(model, data, self.config, self.run, self.original)
            self._store(metrics_of(model, description, self.config))

    def _store(self, metrics: dict[str, Any]) -> None:
        """Write the results last, then drop the weights if they are not wanted."""
        policy = self.config["checkpoints"]
        drop = policy == "none" or (policy == "chosen" and self.original is not None)
        if drop:
            metrics["dropped_checkpoint"] = self.run.checkpoint.name
        Rewind.clean(self.run.folder)
        write_json(self.run.folder / "metrics.json", metrics)
        if drop:
            self.run.checkpoint.unlink()
