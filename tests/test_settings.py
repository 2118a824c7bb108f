"""Every option: where its value comes from, and what is said of a wrong one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from trident.errors import SettingsError
from trident.settings import Settings, is_flag, is_list, load_settings, option_choices, option_group

pytestmark = pytest.mark.usefixtures("clean_settings")


def test_defaults_are_those_of_the_documented_command_line() -> None:
    settings = load_settings(job_dir="out")
    documented = {
        "task": "seg",
        "gpu": 0,
        "gpus": None,
        "segmenter": "hest",
        "seg_conf_thresh": 0.5,
        "mag": 20,
        "patch_size": 512,
        "overlap": 0,
        "min_tissue_proportion": 0,
        "batch_size": 64,
        "seg_batch_size": None,
        "feat_batch_size": None,
        "max_workers": None,
        "cache_batch_size": 32,
        "dead_lock_max_age_hours": 24,
        "dump_patches_max": 0,
        "dump_patches_format": "png",
        "dump_patches_jpeg_quality": 90,
        "patch_encoder": ("conch_v15",),
        "slide_encoder": None,
        "reader_type": None,
    }
    assert {name: getattr(settings, name) for name in documented} == documented
    flags = [name for name, field in Settings.model_fields.items() if is_flag(field)]
    assert {"skip_errors", "overwrite", "dry_run", "debug", "remove_holes", "dump_patches"} <= set(flags)
    assert not any(getattr(settings, name) for name in flags)


def test_command_line_beats_environment_beats_file_beats_default(
    clean_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sources() -> tuple[float, float, float, float]:
        settings = load_settings(job_dir="out", mag=5)
        return settings.mag, settings.overlap, settings.batch_size, settings.cache_batch_size

    (clean_settings / "luigi.cfg").write_text("[trident]\nmag = 10\noverlap = 10\nbatch-size = 10\n")
    monkeypatch.setenv("TRIDENT_MAG", "40")
    monkeypatch.setenv("TRIDENT_OVERLAP", "40")
    assert sources() == (5, 40, 10, 32)
    monkeypatch.delenv("TRIDENT_OVERLAP")
    assert sources() == (5, 10, 10, 32)


def test_the_file_that_luigi_config_path_names_beats_the_one_in_the_current_folder(
    clean_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clean_settings / "luigi.cfg").write_text("[core]\nlog_level = INFO\n[trident]\nmag = 10\noverlap = 10\n")
    elsewhere = clean_settings / "mine.cfg"
    elsewhere.write_text("[trident]\nmag = 5\n")
    monkeypatch.setenv("LUIGI_CONFIG_PATH", str(elsewhere))
    settings = load_settings(job_dir="out")
    assert (settings.mag, settings.overlap) == (5, 10)


def test_an_empty_value_in_environment_or_file_is_none_at_all(
    clean_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clean_settings / "luigi.cfg").write_text("[trident]\nmag =\n")
    monkeypatch.setenv("TRIDENT_PATCH_SIZE", "")
    settings = load_settings(job_dir="out")
    assert (settings.mag, settings.patch_size) == (20, 512)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("0 1", (0, 1)), ("0,1", (0, 1)), (("0 1",), (0, 1)), ([0, "1"], (0, 1)), ((-1, -1), (-1, -1)), ("3", (3,))],
)
def test_lists_come_with_blanks_commas_or_as_lists(
    given: Any, expected: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings(job_dir="out", gpus=given).gpus == expected
    if isinstance(given, str):
        monkeypatch.setenv("TRIDENT_GPUS", given)
        assert load_settings(job_dir="out").gpus == expected


def test_lists_of_words_come_from_every_source(clean_settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clean_settings / "luigi.cfg").write_text("[trident]\nwsi_ext = .svs, .ndpi\n")
    monkeypatch.setenv("TRIDENT_CUSTOM_MPP_KEYS", "a.mpp b.mpp")
    settings = load_settings(job_dir="out")
    assert settings.wsi_ext == (".svs", ".ndpi")
    assert settings.custom_mpp_keys == ("a.mpp", "b.mpp")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"gpus": (1, 0), "gpu": 5}, (1, 0)),
        ({"gpu": 2}, (2,)),
        ({"gpus": (-1, -1)}, (-1, -1)),
        ({"gpus": (0, 1, 0, 0)}, (0, 1)),
        ({"gpus": (-1, 3, -1, 3)}, (-1, 3, -1)),
        ({}, (0,)),
    ],
)
def test_each_gpu_counts_once_and_each_cpu_worker_for_itself(values: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert load_settings(job_dir="out", **values).devices == expected


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("mag", "abc", "number"),
        ("mag", "0", "greater than 0"),
        ("mag", "-20", "greater than 0"),
        ("mag", "nan", "finite"),
        ("mag", "inf", "finite"),
        ("patch_size", "1.5", "integer"),
        ("patch_size", "0", "greater than or equal to 1"),
        ("overlap", "-1", "greater than or equal to 0"),
        ("min_tissue_proportion", "1.01", "less than or equal to 1"),
        ("seg_conf_thresh", "-0.1", "greater than or equal to 0"),
        ("batch_size", "0", "greater than or equal to 1"),
        ("feat_batch_size", "-3", "greater than or equal to 1"),
        ("max_workers", "-1", "greater than or equal to 0"),
        ("gpu", "-2", "greater than or equal to -1"),
        ("gpus", "0 x", "integer"),
        ("gpus", "0 -2", "greater than or equal to -1"),
        ("task", "img", "'seg'"),
        ("segmenter", "ots", "did you mean 'otsu'?"),
        ("reader_type", "openslid", "did you mean 'openslide'?"),
        ("patch_encoder", "uni_v3", "did you mean 'uni_v"),
        ("patch_encoder", "", "known: "),
        ("slide_encoder", "titann", "did you mean 'titan'?"),
        ("dump_patches_format", "gif", "'png'"),
        ("dump_patches_jpeg_quality", "101", "less than or equal to 100"),
        ("dead_lock_max_age_hours", "-1", "greater than or equal to 0"),
        ("task_timeout", "0", "greater than 0"),
        ("task_timeout", "inf", "finite"),
        ("task_timeout", "nan", "finite"),
        ("task_timeout", "1e10", "less than or equal to 864000"),
        ("overwrite", "perhaps", "boolean"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_option_and_value(name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(job_dir="out", **{name: value})
    message = str(caught.value)
    assert message.startswith(f"--{name} ")
    assert says in message
    assert "\n" not in message
    assert value.rsplit(" ", maxsplit=1)[-1] in message


def test_a_bad_value_in_the_environment_is_refused_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIDENT_MAG", "fast")
    with pytest.raises(SettingsError, match="--mag fast: "):
        load_settings(job_dir="out")


def test_several_bad_values_are_all_named() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(mag="x", overlap="y")
    for name in ("--job_dir is required", "--mag x", "--overlap y"):
        assert name in str(caught.value)


def test_an_unknown_key_is_refused_wherever_it_stands(clean_settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="unknown option 'patch_sise'; did you mean 'patch_size'"):
        load_settings(job_dir="out", patch_sise=256)
    monkeypatch.setenv("TRIDENT_PATCH_SISE", "256")
    with pytest.raises(SettingsError, match=r"environment .*unknown option 'patch_sise'; did you mean 'patch_size'"):
        load_settings(job_dir="out")
    monkeypatch.delenv("TRIDENT_PATCH_SISE")
    (clean_settings / "luigi.cfg").write_text("[trident]\npatch_sise = 256\n")
    with pytest.raises(SettingsError, match=r"luigi.cfg, section \[trident\]: unknown option 'patch_sise'"):
        load_settings(job_dir="out")


def test_variables_with_our_prefix_that_are_no_options_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIDENT_LOCAL_CKPTS", "somewhere.json")
    monkeypatch.setenv("TRIDENT_TEST_SHARED", "somewhere")
    assert load_settings(job_dir="out").job_dir == Path("out")


@pytest.mark.parametrize("content", [b"mag = 3\n", b"[trident]\nmag = \xff\xfe\n", b"[trident\n"])
def test_an_unreadable_luigi_cfg_is_named(clean_settings: Path, content: bytes) -> None:
    (clean_settings / "luigi.cfg").write_bytes(content)
    with pytest.raises(SettingsError, match=r"luigi\.cfg: not a readable configuration file") as caught:
        load_settings(job_dir="out")
    assert "\n" not in str(caught.value)


def test_settings_cannot_be_changed() -> None:
    settings = load_settings(job_dir="out")
    with pytest.raises(ValueError, match="frozen"):
        settings.mag = 5


def test_every_option_has_a_group_a_description_and_one_kind() -> None:
    for name, field in Settings.model_fields.items():
        assert option_group(field), name
        assert field.description
        assert field.description.endswith("."), name
        assert not (is_flag(field) and is_list(field)), name
    lists = {name for name, field in Settings.model_fields.items() if is_list(field)}
    assert lists == {"wsi_ext", "custom_mpp_keys", "gpus", "patch_encoder"}


def test_every_documented_flag_and_choice_is_accepted(shared_reference: Path) -> None:
    usage = (shared_reference / "quickstart.txt").read_text(encoding="utf-8").partition("usage: ")[2]
    usage = usage.partition("Run Trident")[0]
    flags = re.findall(r"--(\w+)(?:\s+(\{[^}]*\}|[A-Z_]+))?", usage)
    assert len(flags) == 36
    for name, metavar in flags:
        field = Settings.model_fields[name]
        assert is_flag(field) == (not metavar), name
        for choice in metavar.strip("{}").split(",") if metavar.startswith("{") else ():
            assert choice in (option_choices(field) or ()), name
            assert getattr(load_settings(job_dir="out", **{name: choice}), name) in (choice, (choice,))


@pytest.mark.parametrize("where", ["command line", "environment"])
def test_the_scale_of_the_patches_is_set_once(
    clean_settings: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    assert load_settings(job_dir="out", target_mpp="0.5").target_mpp == 0.5
    given = {"mag": 20} if where == "command line" else {}
    if where == "environment":
        monkeypatch.setenv("TRIDENT_MAG", "20")
    with pytest.raises(SettingsError, match=r"--target_mpp 0\.5 and --mag 20 .* leave one out"):
        load_settings(job_dir="out", target_mpp=0.5, **given)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "half"])
def test_a_target_resolution_is_a_positive_number(clean_settings: Path, value: str) -> None:
    with pytest.raises(SettingsError, match=f"--target_mpp {value}"):
        load_settings(job_dir="out", target_mpp=value)


@pytest.mark.parametrize("where", ["command line", "environment"])
def test_a_time_limit_needs_executors(clean_settings: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    assert load_settings(job_dir="out", task_timeout="3600").task_timeout == 3600
    given = {"executor": "in-process"} if where == "command line" else {}
    if where == "environment":
        monkeypatch.setenv("TRIDENT_EXECUTOR", "in-process")
    with pytest.raises(SettingsError, match=r"--task_timeout 3600 and --executor in-process .* leave one out"):
        load_settings(job_dir="out", task_timeout=3600, **given)
