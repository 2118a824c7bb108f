"""Weights: which are here, whether they are what the hub published, and which the hub's token may fetch."""

from __future__ import annotations

import os

from trident.doctor.check import Finding, failed, passed, warned
from trident.encoders.models_list import choose_models
from trident.encoders.weights import WeightsSource, locate
from trident.errors import TridentError

_KINDS_OF_PROFILE = {
    "base": ("segmentation",),
    "patch-encoders": ("segmentation", "patch"),
    "slide-encoders": ("segmentation", "patch", "slide"),
    "convert": (),
    "full": ("segmentation", "patch", "slide"),
}
_MOST_NAMED = 3


def weights(profile: str) -> list[Finding]:
    """Weights on this machine, with their digests; those that are not here are counted."""
    findings: list[Finding] = []
    absent = []
    for key, source in _models(profile).items():
        try:
            found = locate(source)
            if found is None:
                absent.append(key)
            else:
                findings.append(passed(f"weights {key}", f"{found.path} (SHA-256 {found.sha256[:16]}…)"))
        except TridentError as error:
            findings.append(failed(f"weights {key}", str(error), f"trident weights check {key}"))
    if absent:
        named = ", ".join(absent[:_MOST_NAMED]) + (", …" if len(absent) > _MOST_NAMED else "")
        count = "1 model is" if len(absent) == 1 else f"{len(absent)} models are"
        detail = f"{count} not here yet ({named}); a run fetches what it needs"
        findings.append(passed("weights", detail))
    return findings


def hub(profile: str, *, check_gated: bool) -> list[Finding]:
    """The hub's token, and with `check_gated` whether it may fetch each gated model."""
    from huggingface_hub import get_token
    from huggingface_hub.constants import is_offline_mode

    token = get_token()
    findings = [
        passed("hub token", "there")
        if token
        else warned("hub token", "none: gated weights cannot be fetched", "set HF_TOKEN, or run: hf auth login")
    ]
    if not check_gated:
        return findings
    if is_offline_mode() or os.environ.get("HF_HUB_OFFLINE") == "1":
        return [*findings, warned("gated weights", "not asked: HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE")]
    for key, source in _models(profile).items():
        if getattr(source, "gated", False) and source.repo_id is not None:
            finding = _access(key, source.repo_id, token)
            findings.append(finding)
            if finding.detail.startswith("the hub cannot be reached"):
                break  # nor for any other
    return findings


def _access(key: str, repo_id: str, token: str | None) -> Finding:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    name, page = f"access {key}", f"https://huggingface.co/{repo_id}"
    try:
        HfApi().auth_check(repo_id, token=token)
    except GatedRepoError:
        return warned(name, "the token has no access", f"ask for access on {page}")
    except RepositoryNotFoundError:
        return warned(name, f"the hub knows no {repo_id} for this token", f"look at {page}")
    except Exception as error:  # noqa: BLE001 - each version of the hub's client has its own network errors
        return warned(name, f"the hub cannot be reached ({type(error).__name__})", "check the network and proxy")
    return passed(name, f"the token may fetch {repo_id}")


def _models(profile: str) -> dict[str, WeightsSource]:
    return {
        key: source for key, source in choose_models([]).items() if key.partition("/")[0] in _KINDS_OF_PROFILE[profile]
    }
