"""The fairchem trainer that adds the PIWSL losses to the energy and force training step."""

from __future__ import annotations

import piwsl_ocp.compat

import contextlib
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.common.registry import registry
from fairchem.core.common.utils import setup_imports
from fairchem.core.modules.exponential_moving_average import ExponentialMovingAverage
from fairchem.core.modules.loss import MSELoss
from fairchem.core.trainers import OCPTrainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.sampler import BatchSampler
from torch_geometric.data import Batch

import piwsl_ocp.ocp.logger  # noqa: F401  (registers the logger)
from piwsl_ocp.atomic_file import complete_or_absent
from piwsl_ocp.models.elements import check_elements
from piwsl_ocp.ocp import labels, progress, provenance, scoring, state
from piwsl_ocp.ocp.copies import concatenate_copies
from piwsl_ocp.ocp.dataset import OWN_FORMAT, check_edges, graph_settings
from piwsl_ocp.ocp.evaluations import CopyEvaluator, Evaluation
from piwsl_ocp.ocp.interruption import StopRequest, TrainingInterrupted, stop_on_signal
from piwsl_ocp.ocp.options import PIWSLOptions
from piwsl_ocp.ocp.sections.model import check_has_cutoff
from piwsl_ocp.ocp.sections.weak import check_weak_losses


def build_trainer(
    config: Mapping[str, Any], kind: type[OCPTrainer] | None = None, seed: int = 0
) -> OCPTrainer:
    """Return a trainer in this process that keeps no files: for measurements and tests.

    Args:
        config: a resolved configuration, see `piwsl_ocp.ocp.config.load_config`.
        kind: class of the trainer; None: `PIWSLTrainer`.
        seed: of the displacements; weights come from torch's generator as it is.
    """
    setup_imports({"skip_experimental_imports": True})
    return (kind or PIWSLTrainer)(
        task=config["task"],
        model=config["model"],
        outputs=config["outputs"],
        dataset=config["dataset"],
        optimizer=config["optim"],
        loss_functions=config["loss_functions"],
        evaluation_metrics=config["evaluation_metrics"],
        logger=config["logger"],
        identifier="unsaved",
        local_rank=0,
        seed=seed,
        is_debug=True,
        cpu=config.get("cpu", False) or not torch.cuda.is_available(),
    )


@registry.register_trainer("piwsl")
class PIWSLTrainer(OCPTrainer):
    """fairchem's `OCPTrainer` with weak losses on displaced copies (arXiv 2408.05215, Eqs. 3 to 5).

    Use it by `trainer: piwsl_ocp.ocp.trainer.PIWSLTrainer` (or `piwsl` where this package is
    imported first); its options stand under `optim.piwsl` (see `PIWSLOptions`). Besides fairchem's
    keys, `optim.max_steps` ends the training after so many steps; it is also the length of a
    cosine schedule (`CosineAnnealingLR`) whose `T_max` is not given.

    The loss of a step is fairchem's supervised loss, plus for each term C times the mean over
    structures of the metric of its residual, in kcal/mol; all of it is divided by one common scale.
    """

    def load(self, inference_only: bool) -> None:
        """Check the options first, then load everything as fairchem does."""
        optim = self.config["optim"]
        self.options = PIWSLOptions.parse(optim.get("piwsl"), self.config["outputs"])
        if not inference_only:
            model = registry.get_model_class(self.config["model"]["name"])
            check_has_cutoff(model)
            check_weak_losses(self.options, self.config, model)
        if optim.get("scheduler") == "CosineAnnealingLR" and "max_steps" in optim:
            optim.setdefault("T_max", optim["max_steps"])
        scoring.require_squared_errors(self.config["evaluation_metrics"])
        self.copies: CopyEvaluator | None = None
        self.evaluation: Evaluation | None = None
        self.validated_split: str | None = None
        self.stop_request = StopRequest()
        self.in_step = self.save_is_due = False
        self.progress = progress.StepProgress()
        self.random_state: dict[str, Tensor] | None = None
        self.first_checkpoint: str | None = None
        if self.cpu:
            torch.set_flush_denormal(True)
        super().load(inference_only)
        if not inference_only:
            self.copies = CopyEvaluator(
                self.options.objective,
                self.config["cmd"]["seed"] or 0,
                self.label_statistics.unit,
                self.normalizers,
                self.options.consistency_epsilon_angstrom,
                separate=self.options.copies == "separate",
                element_references=self.elementrefs,
            )

    @staticmethod
    def _get_timestamp(device: torch.device, suffix: str | None) -> str:
        return provenance.unique_identifier(suffix)

    def load_model(self) -> None:
        """Load the model; one process alone needs no data-parallel wrapper."""
        super().load_model()
        if distutils.get_world_size() == 1:
            self.model = self._unwrapped_model
        else:
            state.keep_process_group()

    def load_datasets(self) -> None:
        """Tell the data set which graph the model wants; read the labels' unit and moments."""
        model = self._unwrapped_model
        self._set_graph(None if model.otf_graph else graph_settings(model))
        super().load_datasets()
        if not model.otf_graph:
            for name, dataset in self._datasets.items():
                if dataset:
                    check_edges(dataset[0], model, f"dataset.{name}")
        unit = self.options.energy_unit
        self.label_statistics = labels.statistics(self.config, unit, self._datasets)
        elements = self.label_statistics.info.get("elements", ())
        check_elements(model, elements, f"'{labels.dataset_folder(self.config)}'")

    def _set_graph(self, graph: dict[str, Any] | None) -> None:
        """Give every split the graph, and this package's format where none is given."""
        train = self.config["dataset"]
        train.setdefault("format", OWN_FORMAT)
        for section in (train, self.config["val_dataset"], self.config["test_dataset"]):
            if section:
                inherits = section.get("use_train_settings", True)
                section.setdefault("format", train["format"] if inherits else OWN_FORMAT)
                section["graph"] = graph

    @property
    def _datasets(self) -> dict[str, Any]:
        return {"train": self.train_dataset, "val": self.val_dataset, "test": self.test_dataset}

    def get_dataloader(
        self, dataset: Dataset, sampler: BatchSampler, workers: int | None = None
    ) -> DataLoader:
        """Return fairchem's loader, whose workers live on from epoch to epoch with their edges."""
        count = self.config["optim"]["num_workers"] if workers is None else workers
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=self.collater,
            num_workers=count,
            pin_memory=True,
            persistent_workers=count > 0,
        )

    def load_references_and_normalizers(self) -> None:
        """Divide energies and forces by one common scale if `target_scale` asks for it.

        The mean energy that is subtracted is that of energies less fairchem's element references.
        """
        if self.options.target_scale == "force_rms":
            transforms = self.config["dataset"].setdefault("transforms", {})
            transforms["normalizer"] = self.label_statistics.normalizer_config()
        super().load_references_and_normalizers()
        if "energy" in self.elementrefs:
            self.label_statistics = labels.without_element_references(
                self.label_statistics, self._datasets, self.elementrefs["energy"]
            )
            if self.options.target_scale == "force_rms":
                mean = self.label_statistics.splits["train"].energy_mean
                self.normalizers["energy"].mean.fill_(mean)

    def load_loss(self) -> None:
        """Give every supervised loss the same common scale as the weak losses.

        A coefficient c counts for residuals in kcal/mol, as the weights of the weak losses do. With
        u kcal/mol in one label unit, the common scale s and the target's own scale r, a loss of
        degree n (mse: 2, others: 1) is c u^n r^n / (u s) times that of the normalised values.
        """
        super().load_loss()
        scale = labels.common_scale(self.normalizers)
        for target, loss in self.loss_functions:
            degree = 2 if isinstance(loss["fn"].loss_fn, MSELoss) else 1
            own = self.normalizers[target].rmsd.item() if target in self.normalizers else 1.0
            unit = self.label_statistics.kcal_per_mol
            loss["coefficient"] *= own**degree * unit ** (degree - 1) / scale

    def train(self, disable_eval_tqdm: bool = True) -> None:
        """Train up to `optim.max_steps`; on a signal save between two steps and raise.

        A signal that comes after the last step changes nothing: the training ends as it would.
        """
        optim = self.config["optim"]
        steps_per_epoch = len(self.train_loader)
        optim.setdefault("max_steps", optim.get("max_epochs", 0) * steps_per_epoch)
        optim["max_epochs"] = math.ceil(optim["max_steps"] / steps_per_epoch)
        if self.first_checkpoint is not None:
            state.check_steps_left(self.step, optim["max_steps"], self.first_checkpoint)
        self.progress.start(self.step, optim["max_steps"])
        with self.progress, stop_on_signal() as self.stop_request:
            with contextlib.suppress(state.LastStepDone):
                super().train(disable_eval_tqdm=True)
            self._finish()

    def _finish(self) -> None:
        """Validate and save the end of training where the last step was no validation step."""
        self.in_step = False
        optim = self.config["optim"]
        eval_every = optim.get("eval_every", len(self.train_loader))
        if self.val_loader is not None and self.step % eval_every:
            name = self.evaluation_metrics["primary_metric"]
            self.update_best(name, self.validate(split="val", disable_tqdm=True))
        self.save(checkpoint_file="checkpoint.pt")
        self.save(checkpoint_file="last_ema.pt", training_state=False)

    def _between_steps(self) -> None:
        """Before a step: save or stop if it is time to, restore the random state after a resume."""
        self.in_step = False
        if self.step > self.config["optim"]["max_steps"]:
            self.step -= 1
            raise state.LastStepDone
        if state.any_rank(self.stop_request.asked, self.device):
            self.step -= 1
            self.save(checkpoint_file="checkpoint.pt")
            raise TrainingInterrupted(self.step)
        if self.save_is_due:
            self.step -= 1
            self.save(checkpoint_file="checkpoint.pt")
            self.step += 1
        if self.random_state is not None:
            state.restore_random(self.random_state)
            self.random_state = None
        self.in_step = True

    def _forward(self, batch: Batch) -> dict[str, Tensor]:
        """Evaluate clean and displaced copies; return the outputs of the clean structures."""
        if self.model.training:
            self._between_steps()
        split = "train" if self.model.training else self.validated_split
        if split is not None:
            labels.check_labels(batch, split)
        batch = batch.to(self.device)
        if self.model.training:
            self.evaluation = self.copies.training(super()._forward, batch, self.step)
        elif self.validated_split is not None:
            self.evaluation = self.copies.validation(super()._forward, batch)
        else:
            self.evaluation = Evaluation(super()._forward(concatenate_copies(batch, [])))
        return self.evaluation.outputs

    def _compute_loss(self, out: dict[str, Tensor], batch: Batch) -> Tensor:
        """Add the weak losses and that of NoisyNodes to fairchem's loss, in training alone."""
        loss = super()._compute_loss(out, batch)
        if not self.model.training:
            return loss
        loss = loss + state.zero_of(out, unless=[target for target, _ in self.loss_functions])
        weights = self.copies.objective.weights
        scale = labels.common_scale(self.normalizers) * self.label_statistics.kcal_per_mol
        for name, values in self.evaluation.losses.items():
            loss = loss + weights[name] / scale * state.global_mean(values)
        if self.options.noisy_nodes and self.evaluation.displaced_outputs is not None:
            noisy = super()._compute_loss(self.evaluation.displaced_outputs, batch)
            loss = loss + self.copies.objective.noisy_nodes_weight * noisy
            self.evaluation = replace(self.evaluation, noisy_nodes=noisy.detach().reshape(1))
        return loss

    def _compute_metrics(self, out, batch, evaluator, metrics=None):
        """Count the weak losses and the consistency error among fairchem's metrics."""
        metrics = super()._compute_metrics(out, batch, evaluator, metrics)
        for name, values in self.evaluation.logged.items():
            total = {"total": values.sum().item(), "numel": values.numel()}
            metrics = evaluator.update(name, total, metrics)
        return metrics

    def _backward(self, loss: Tensor) -> None:
        super()._backward(loss)
        self.progress.step(self.step, loss)

    @torch.no_grad()
    def validate(self, split: str = "val", disable_tqdm: bool = True) -> dict[str, Any]:
        """Validate as fairchem does, and add root mean square errors and the consistency error."""
        self.validated_split = split
        try:
            with self.progress.paused(), state.random_state_untouched(self.device):
                metrics = super().validate(split=split, disable_tqdm=disable_tqdm)
        finally:
            self.validated_split = None
        scores = scoring.scores(metrics, self.label_statistics, split)
        metrics.update({name: {"metric": value} for name, value in scores.items()})
        if self.logger is not None:
            log = {**scores, "train_seconds": self.progress.train_seconds}
            self.logger.log(log, step=self.step, split=split)
        return metrics

    def update_best(
        self, primary_metric: str, val_metrics: dict, disable_eval_tqdm: bool = True
    ) -> None:
        """Save the EMA weights as best_checkpoint.pt if the metric is the best so far."""
        value = val_metrics[primary_metric]["metric"]
        if scoring.is_better(primary_metric, value, self.best_val_metric):
            self.best_val_metric = value
            self.save(val_metrics, "best_checkpoint.pt", training_state=False)

    def save(
        self,
        metrics: dict | None = None,
        checkpoint_file: str = "checkpoint.pt",
        training_state: bool = True,
    ) -> str | None:
        """Save atomically, with the provenance and, for a resume, the random state.

        fairchem saves its training state before it validates and moves the learning rate on; a
        training resumed from that would differ, so such a save is put off to the end of the step.

        Raises:
            UserError: if the disk is full or cannot be written; the checkpoint before stays.
        """
        if training_state:
            self.save_is_due = self.in_step
            if self.in_step:
                logging.info(f"{checkpoint_file} is saved when step {self.step} has ended")
                return None
        if self.is_debug or not distutils.is_master():
            return None
        path = Path(self.config["cmd"]["checkpoint_dir"]) / checkpoint_file
        self.config["piwsl"] = provenance.of_run(self)
        if training_state:
            self.config["piwsl"]["random_state"] = state.random_state()
        try:
            with self.progress.paused(), complete_or_absent(path) as partial:
                super().save(metrics, partial.name, training_state)
        except RuntimeError as error:
            raise state.cannot_save(path, error) from error
        finally:
            del self.config["piwsl"]
        return str(path)

    def load_checkpoint(
        self, checkpoint_path: str, checkpoint: dict | None = None, inference_only: bool = False
    ) -> None:
        """Load tensors and plain values only; refuse the checkpoint of another model or unit.

        `checkpoint.pt` goes on with its step, optimiser and averaged weights. A checkpoint of
        weights alone (`best_checkpoint.pt`, `last_ema.pt`) begins at step 0, and the average with
        it. Where it comes from another run folder, the best metric is sought anew.
        """
        checkpoint = checkpoint or state.read_checkpoint(checkpoint_path, self.device)
        state.check_same_model(checkpoint, self._unwrapped_model, checkpoint_path)
        extra = checkpoint["config"].get("piwsl", {})
        if not inference_only:
            state.check_same_unit(extra.get("unit"), self.label_statistics.unit, checkpoint_path)
        super().load_checkpoint(checkpoint_path, checkpoint, inference_only)
        if inference_only:
            return
        self.load_loss()
        if self.ema is None and self.ema_decay:
            self.ema = ExponentialMovingAverage(self.model.parameters(), self.ema_decay)
        self.random_state = extra.get("random_state")
        folder = Path(self.config["cmd"]["checkpoint_dir"]).resolve()
        if Path(checkpoint_path).resolve().parent == folder:
            self.progress.train_seconds = extra.get("train_seconds", 0.0)
        else:
            self.first_checkpoint = str(checkpoint_path)
            self.best_val_metric = self.primary_metric = None
