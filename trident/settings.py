"""The one definition of every option.

The command line, the Luigi parameters, the job file, the environment (`TRIDENT_<OPTION>`) and the `[trident]` section
of `luigi.cfg` all come from the `Settings` class here. Precedence: command line, then environment, then `luigi.cfg`,
then the default. An unknown key is an error everywhere.
"""

from __future__ import annotations

import configparser
import difflib
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from trident import log
from trident.encoders.patch.registry import PATCH_ENCODER_NAMES, TIMM_PREFIX, plugin_names
from trident.encoders.slide.registry import SLIDE_ENCODER_NAMES
from trident.errors import SettingsError
from trident.segmentation.registry import SEGMENTER_NAMES
from trident.slides.registry import READER_TYPES

ENVIRONMENT_PREFIX = "TRIDENT_"
OTHER_ENVIRONMENT = ("TRIDENT_LOCAL_CKPTS", "TRIDENT_TEST_")
"""Beginnings of variables with our prefix that are no options."""

CONFIG_SECTION = "trident"

LONGEST_TIMEOUT_S = 10 * 24 * 3600
"""Ten days: no stage takes so long, and the operating system's waits end somewhere beyond."""


def _split(value: object) -> object:
    """Lists come as `a b`, `a,b` or a real list, whatever the source."""
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return tuple(str(value).replace(",", " ").split())  # a lone number in the environment comes as one
    if isinstance(value, (list, tuple)) and any(isinstance(member, str) for member in value):
        return tuple(part for member in value for part in str(member).replace(",", " ").split())  # --gpus='0 1'
    return value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
GpuIndices = Annotated[tuple[Annotated[int, Field(ge=-1)], ...], NoDecode, BeforeValidator(_split)]


def _option(
    group: str, default: Any, description: str, *, choices: tuple[str, ...] | None = None, **limits: Any
) -> Any:
    extra: dict[str, Any] = {"group": group}
    if choices is not None:
        extra["choices"] = list(choices)
    return Field(default=default, description=description, json_schema_extra=extra, **limits)


def _require_known(name: str, choices: tuple[str, ...]) -> None:
    if choices and name not in choices:
        close = difflib.get_close_matches(name, choices, n=1)
        raise ValueError(
            f"unknown name {name!r}" + (f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(choices)}")
        )


class Settings(BaseSettings):
    """Every option of a run, checked."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENVIRONMENT_PREFIX, env_ignore_empty=True, validate_default=False
    )

    # What to process, and where results go.
    job_dir: Path = Field(description="Directory of all outputs.", json_schema_extra={"group": "slides"})
    wsi_dir: Path | None = _option("slides", None, "Directory with the slides.")
    slide_path: Path | None = _option("slides", None, "One slide, instead of a directory.")
    wsi_ext: Words | None = _option(
        "slides", None, "File extensions to look for, such as `.svs .ndpi` (default: all known)."
    )
    search_nested: bool = _option("slides", False, "Look for slides in all subdirectories too.")
    custom_list_of_wsis: Path | None = _option(
        "slides", None, "CSV of slides to process: column `wsi` (path relative to the slide directory), optional `mpp`."
    )
    custom_mpp_keys: Words | None = _option("slides", None, "Further metadata keys that hold µm/px.")
    reader_type: str | None = _option(
        "slides", None, "Force a reader (default: chosen per file).", choices=READER_TYPES
    )

    # What to run.
    task: Literal["seg", "coords", "feat", "all"] = _option(
        "run", "seg", "Stage to run: tissue segmentation, patch coordinates, features, or all three."
    )
    skip_errors: bool = _option("run", False, "Go on with the other slides when one fails.")
    overwrite: bool = _option("run", False, "Make the outputs of the requested stages anew, whatever exists.")
    dry_run: bool = _option("run", False, "List per slide and stage what would run and why; change nothing.")
    debug: bool = _option("run", False, "Verbose log, and tracebacks for expected errors too.")
    clear_dead_locks: bool = _option("run", False, "First remove `.lock` files that dead runs left behind.")
    dead_lock_max_age_hours: float = _option(
        "run", 24.0, "Age in hours from which an unreadable lock, or one of another host, counts as dead.", ge=0
    )

    # Devices and memory.
    gpu: int = _option("devices", 0, "One GPU index (older spelling of --gpus); -1: CPU.", ge=-1)
    gpus: GpuIndices | None = _option(
        "devices", None, "GPU indices, each a process of its own; -1: a CPU worker (`-1 -1`: two of them)."
    )
    slides_per_gpu: int = _option(
        "devices", 2, "Slides in flight on a GPU at once: one is read while another is encoded.", ge=1, le=8
    )
    max_workers: int | None = _option(
        "devices", None, "Reading threads (default: one per core); 0: read in the main thread.", ge=0
    )
    batch_size: int = _option("devices", 64, "Batch size of segmentation and patch features.", ge=1)
    seg_batch_size: int | None = _option("devices", None, "Batch size of segmentation, if different.", ge=1)
    feat_batch_size: int | None = _option("devices", None, "Batch size of patch features, if different.", ge=1)
    wsi_cache: Path | None = _option("devices", None, "Local directory for copies of slides on slow storage.")
    cache_batch_size: int = _option("devices", 32, "Slides kept in the local cache at once.", ge=1)

    # Tissue.
    segmenter: str = _option("tissue", "hest", "Tissue segmenter.", choices=SEGMENTER_NAMES)
    seg_conf_thresh: float = _option(
        "tissue", 0.5, "Confidence from which a pixel is tissue; lower keeps more.", ge=0, le=1
    )
    remove_holes: bool = _option("tissue", False, "Cut holes out of the tissue.")
    remove_artifacts: bool = _option("tissue", False, "Remove artifacts (pen, folds, blur, ...) with a second model.")
    remove_penmarks: bool = _option("tissue", False, "Remove pen marks with a second model.")

    # Patch grid.
    mag: float = _option("patches", 20.0, "Magnification of the patches; may be fractional.", gt=0, allow_inf_nan=False)
    target_mpp: float | None = _option(
        "patches",
        None,
        "Instead of --mag: µm/px of the patches, exact where a magnification is rounded.",
        gt=0,
        allow_inf_nan=False,
    )
    patch_size: int = _option("patches", 512, "Patch width and height, pixels at that magnification.", ge=1)
    overlap: int = _option("patches", 0, "Overlap of neighbouring patches, pixels at that magnification.", ge=0)
    min_tissue_proportion: float = _option("patches", 0.0, "Least share of tissue for a patch to be kept.", ge=0, le=1)
    coords_dir: str | None = _option(
        "patches", None, "Grid directory under the job directory, instead of its usual name."
    )
    dump_patches: bool = _option("patches", False, "Save patch images too.")
    dump_patches_max: int = _option("patches", 0, "Most patch images per slide; 0: all.", ge=0)
    dump_patches_format: Literal["png", "jpg"] = _option("patches", "png", "Format of patch images.")
    dump_patches_jpeg_quality: int = _option("patches", 90, "JPEG quality of patch images.", ge=1, le=100)

    # Encoders.
    patch_encoder: Words = _option(
        "encoders",
        ("conch_v15",),
        "Patch encoders; each patch is read once for all of them. Any model of timm as `timm/<name>`.",
        choices=PATCH_ENCODER_NAMES,
    )
    patch_encoder_ckpt_path: Path | None = _option(
        "encoders", None, "Local checkpoint of the patch encoder (.pt, .pth, .bin, .safetensors, or its folder)."
    )
    patch_encoder_img_size: int | None = _option(
        "encoders", None, "Input size of the patch encoder, where it can differ from the usual one.", ge=1
    )
    slide_encoder: str | None = _option(
        "encoders",
        None,
        "Slide encoder; patch features that it needs are extracted first.",
        choices=SLIDE_ENCODER_NAMES,
    )

    precision: Literal["auto", "float32", "float16", "bfloat16"] = _option(
        "encoders", "auto", "Floating-point type of encoders; auto: each encoder's own on a GPU, float32 on a CPU."
    )
    trust_remote_code: bool = _option(
        "encoders", False, "Let a slide encoder that comes as code in its hub repository (care) run that code."
    )

    # Who does the work.
    executor: Literal["process", "in-process", "docker"] = _option(
        "graph",
        "process",
        "Where stages run: in a process of their own for each device, in a container for each device, or in this "
        "process (one device; for debugging).",
    )
    image: str | None = _option(
        "graph", None, "Image of the containers of --executor docker (default: trident-luigi:<this version>)."
    )
    shm_size: str = _option(
        "graph", "2g", "Size of /dev/shm in these containers, such as `512m` or `2g`.", pattern=r"^[1-9][0-9]*[kmg]?$"
    )
    task_timeout: float | None = _option(
        "graph",
        None,
        "Seconds after which a stage of one slide is ended and counts as failed (default: never); not with --executor "
        "in-process.",
        gt=0,
        le=LONGEST_TIMEOUT_S,
        allow_inf_nan=False,
    )

    # What is said while it runs.
    quiet: bool = _option("log", False, "Say only what went wrong.")
    log_format: Literal["text", "json"] = _option("log", "text", "Log for people, or one JSON object a line.")

    # The task graph, for the `trident` command (`luigi` has its own options for these).
    scheduler_url: str | None = _option(
        "graph", None, "Address of a running luigid, such as http://localhost:8082 (default: a scheduler of our own)."
    )

    @field_validator("segmenter", "reader_type", "slide_encoder")
    @classmethod
    def _known_name(cls, value: str | None, info: Any) -> str | None:
        if value is not None:
            _require_known(value, option_choices(cls.model_fields[info.field_name]) or ())
        return value

    @field_validator("patch_encoder")
    @classmethod
    def _known_patch_encoders(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        choices = (*PATCH_ENCODER_NAMES, *plugin_names())
        for name in names or ("",):
            if not name.startswith(TIMM_PREFIX):  # whether timm has it is found out when needed: asking takes a second
                _require_known(name, choices)
        return tuple(dict.fromkeys(names))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line (init), then environment, then `luigi.cfg`."""
        return init_settings, env_settings, _LuigiConfigSource(settings_cls)

    @property
    def devices(self) -> tuple[int, ...]:
        """The devices that are asked for: each GPU index once, -1 for each CPU worker."""
        asked = self.gpus or (self.gpu,)
        return tuple(index for position, index in enumerate(asked) if index < 0 or index not in asked[:position])


class _LuigiConfigSource(PydanticBaseSettingsSource):
    """The `[trident]` section of the files that Luigi itself reads."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {}
        for path in luigi_config_paths():
            parser = configparser.ConfigParser(interpolation=None)
            try:
                parser.read(path, encoding="utf-8")
            except (configparser.Error, UnicodeDecodeError) as error:
                raise SettingsError(
                    f"{path}: not a readable configuration file ({str(error).splitlines()[0]})"
                ) from error
            if parser.has_section(CONFIG_SECTION):
                section = {key.replace("-", "_"): value for key, value in parser.items(CONFIG_SECTION)}
                _refuse_unknown(section, f"{path}, section [{CONFIG_SECTION}]")
                values.update({key: value for key, value in section.items() if value})
        return values


def luigi_config_paths() -> list[Path]:
    """Configuration files in the order in which Luigi reads them; later ones win."""
    paths = [Path("/etc/luigi/client.cfg"), Path("/etc/luigi/luigi.cfg"), Path("client.cfg"), Path("luigi.cfg")]
    if given := os.environ.get("LUIGI_CONFIG_PATH"):
        paths.append(Path(given))
    return [path for path in paths if path.is_file()]


def _refuse_unknown(keys: Mapping[str, object], where: str) -> None:
    for key in keys:
        if key not in Settings.model_fields:
            close = difflib.get_close_matches(key, Settings.model_fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise SettingsError(f"{where}: unknown option {key!r}{hint}")


def _check_environment() -> None:
    names = [
        name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX) and not name.startswith(OTHER_ENVIRONMENT)
    ]
    _refuse_unknown(
        {name[len(ENVIRONMENT_PREFIX) :].lower(): None for name in names}, f"environment ({ENVIRONMENT_PREFIX}*)"
    )


def load_settings(**given: Any) -> Settings:
    """Settings from the given values, the environment, `luigi.cfg` and the defaults, in this order.

    Raises:
        SettingsError: a value is wrong or a key unknown; the message names the option.
    """
    _refuse_unknown(given, "options")
    _check_environment()
    try:
        settings = Settings(**given)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            name = str(item["loc"][0]) if item["loc"] else "options"
            if item["type"] == "missing":
                problems.append(f"--{name} is required")
            else:
                message = item["msg"].removeprefix("Value error, ")
                problems.append(f"--{name} {item.get('input')!s}: {message[:1].lower()}{message[1:]}")
        raise SettingsError("; ".join(problems)) from None
    if settings.target_mpp is not None and "mag" in settings.model_fields_set:
        raise SettingsError(
            f"--target_mpp {settings.target_mpp:g} and --mag {settings.mag:g} (command line, environment or luigi.cfg) "
            "both set the scale of the patches; leave one out"
        )
    if settings.task_timeout is not None and settings.executor == "in-process":
        raise SettingsError(
            f"--task_timeout {settings.task_timeout:g} and --executor in-process (command line, environment or "
            "luigi.cfg): a process cannot end its own work; leave one out"
        )
    return settings


def configure_log(settings: Settings) -> None:
    """Have the log as the options say."""
    log.configure(debug=settings.debug, quiet=settings.quiet, as_json=settings.log_format == "json")


# What the generators of the command line and of the Luigi parameters need to know of an option.


def option_choices(field: FieldInfo) -> tuple[str, ...] | None:
    """The names that an option takes, where they are a closed list."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and isinstance(extra.get("choices"), list):
        return tuple(str(choice) for choice in extra["choices"])  # type: ignore[union-attr]
    if get_origin(field.annotation) is Literal:
        return tuple(get_args(field.annotation))
    return None


def option_group(field: FieldInfo) -> str:
    """Heading under which the help shows an option."""
    assert isinstance(field.json_schema_extra, dict)
    return str(field.json_schema_extra["group"])


def _members(field: FieldInfo) -> tuple[Any, ...]:
    if get_origin(field.annotation) in (Union, types.UnionType):
        return get_args(field.annotation)
    return (field.annotation,)


def host_options() -> frozenset[str]:
    """Options that say how this host does the work, and not which work: hosts that share a job may differ in them."""
    return frozenset(
        name for name, field in Settings.model_fields.items() if option_group(field) in {"devices", "graph", "log"}
    )


def is_flag(field: FieldInfo) -> bool:
    """Whether an option is switched on by its bare name."""
    return field.annotation is bool


def is_list(field: FieldInfo) -> bool:
    """Whether an option takes several values."""
    unwrapped = [get_args(member)[0] if get_origin(member) is Annotated else member for member in _members(field)]
    return any(get_origin(member) is tuple for member in unwrapped)
