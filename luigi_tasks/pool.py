"""PoolPatients: one vector a patient, from slides whose features are there."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import luigi

from luigi_tasks.engine import set_exit_code
from luigi_tasks.jobs import new_run_id, usage_errors
from luigi_tasks.options import OptionParameter, option_parameters
from trident import exit_codes, log
from trident.devices import device_for, restrict_visibility
from trident.errors import CohortError, SettingsError, TridentError
from trident.job import Job, absolute_path
from trident.patients import read_patients
from trident.settings import load_settings
from trident.stages import models
from trident.stages.base import StageContext, run_stage
from trident.stages.patient import PATIENT_FEATURES, PatientStage, Pooling
from trident.stages.tracking import describe_error

logger = logging.getLogger(__name__)

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
OPTIONS = (
    "job_dir",
    "slide_encoder",
    "mag",
    "target_mpp",
    "patch_size",
    "overlap",
    "coords_dir",
    "gpu",
    "gpus",
    "skip_errors",
    "overwrite",
    "trust_remote_code",
)
"""Options of the settings that pooling has."""


class PoolPatients(luigi.Task):
    """Pool the slides of each patient into one vector."""

    patients = OptionParameter(description="CSV with the columns `patient` and `wsi`.", identity=True)
    pooling = OptionParameter(
        description="`mean` of the slide embeddings (default), or `early`: all patches of a patient go through the "
        "slide encoder together.",
        identity=True,
    )
    run_id = OptionParameter(description="Name of this run; two runs are two tasks.", identity=True)
    failed: int | None = None
    """How many patients failed, once the task has run."""
    _ended = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        with usage_errors():
            given = tuple(
                sorted(
                    (name, value) for name, value in self.param_kwargs.items() if value is not None and name != "run_id"
                )
            )
            self.skip_failed, self.stages = _resolve(given)
        # Now: with `--workers 2` the task runs in a forked process, whose settings Luigi does not see.
        set_exit_code(exit_codes.FINISHED_WITH_FAILURES if self.skip_failed else exit_codes.STOPPED)

    def complete(self) -> bool:
        """Whether every patient's vector is there, made from the features as they are now."""
        return self._ended or all(stage.status().done for stage in self.stages)

    def run(self) -> None:
        """Pool what is not done.

        Raises:
            CohortError: some patient failed.
        """
        log.configure()
        failures = []
        for stage in self.stages:
            try:
                run_stage(stage)
            except Exception as error:
                failures.append(describe_error(error))
                unforeseen = not isinstance(error, TridentError)
                logger.error("%s: %s", stage.source.name, failures[-1], exc_info=error if unforeseen else None)
                if not self.skip_failed:
                    break
        self.failed = len(failures)
        self._ended = not failures
        if failures:
            raise CohortError(f"{len(failures)} of {len(self.stages)} patients failed (first: {failures[0]})")


for _name in OPTIONS:
    # What Python itself does for the names in a class body.
    option_parameters()[_name].__set_name__(PoolPatients, _name)  # type: ignore[no-untyped-call]
    setattr(PoolPatients, _name, option_parameters()[_name])


def _resolve(given: tuple[tuple[str, Any], ...]) -> tuple[bool, list[PatientStage]]:
    """Whether to go on past failures, and a stage for each patient."""
    values = dict(given)
    patients, pooling = values.pop("patients", None), values.pop("pooling", None) or "mean"
    if patients is None:
        raise SettingsError("--patients is required: a CSV with the columns `patient` and `wsi`")
    chosen = next((one for one in POOLINGS if one == pooling), None)
    if chosen is None:
        raise SettingsError(f"--pooling {pooling}: choose one of {', '.join(POOLINGS)}")
    settings = load_settings(**values)
    if settings.slide_encoder is None:
        raise SettingsError(
            "--slide_encoder is required: the one whose slide embeddings, or patch features, are pooled"
        )
    settings = settings.model_copy(update={"job_dir": absolute_path(settings.job_dir)})
    restrict_visibility(settings.devices[0])
    job = Job(settings, MappingProxyType({}), kinds=())
    assert job.slide_encoder is not None
    device = device_for(settings.devices[0])
    context = StageContext(
        layout=job.layout,
        made=frozenset({PATIENT_FEATURES}),
        device=device,
        overwrite_run=new_run_id() if settings.overwrite else None,
    )
    stages = [
        PatientStage(
            context,
            patient,
            slides,
            pooling=chosen,
            slide_encoder=job.slide_encoder,
            patch_encoder=job.patch_encoder,
            load_encoder=partial(models.slide_encoder, job.slide_encoder, device, settings.trust_remote_code),
        )
        for patient, slides in read_patients(Path(patients)).items()
    ]
    return settings.skip_errors, stages
