"""Every format reads back equal, with its own library."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trident.errors import NotAvailableError
from trident.export.formats import FORMATS, Exported, require_packages
from trident.store.h5_read import FeaturesFile

NAMES = ["plain", "Ünï <b>&\"x'", "two\nlines", "no\udcffutf8", "-rf", "a.b.c"]


def _exported(name: str, n_rows: int, **attributes: Any) -> Exported:
    random = np.random.default_rng(n_rows)
    features = random.normal(size=(n_rows, 6)).astype(np.float32)
    coords = random.integers(0, 1 << 40, size=(n_rows, 2))
    stored = {"patch_size": 128, "target_magnification": 2.5, "name": "x", "savetodir": "/private", **attributes}
    return Exported(name, "enc", FeaturesFile(features, coords, {}, stored, None))


def _tensor(path: Path) -> dict[str, Any]:
    return {"features": torch.load(path, weights_only=True).numpy()}


def _zarr(path: Path) -> dict[str, Any]:
    zarr = pytest.importorskip("zarr", reason="zarr is not installed (extra `export`)")
    with zarr.storage.ZipStore(path, mode="r") as store:
        group = zarr.open_group(store, mode="r")
        return {"features": group["features"][:], "coords": group["coords"][:], "facts": dict(group.attrs)}


def _anndata(path: Path) -> dict[str, Any]:
    anndata = pytest.importorskip("anndata", reason="anndata is not installed (extra `export`)")
    data = anndata.read_h5ad(path)
    assert list(data.obs_names) == [f"{data.uns['slide']}_{row}" for row in range(data.n_obs)]
    assert set(data.obs["slide"]) <= {data.uns["slide"]}
    np.testing.assert_array_equal(data.obs[["x", "y"]].to_numpy(), data.obsm["spatial"])
    return {"features": data.obsm["features"], "coords": data.obsm["spatial"], "facts": data.uns}


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {"pt": _tensor, "zarr": _zarr, "h5ad": _anndata}


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("n_rows", [0, 1, 300])
@pytest.mark.parametrize("name", NAMES)
def test_reads_back_equal(tmp_path: Path, format_name: str, n_rows: int, name: str) -> None:
    for package in FORMATS[format_name].packages:
        pytest.importorskip(package, reason=f"{package} is not installed (extra `export`)")
    exported = _exported(name, n_rows, **{"odd/key": 1, "list": [1, 2], "nan": float("nan")})
    path = tmp_path / f"file{FORMATS[format_name].suffix}"
    FORMATS[format_name].write(path, exported)
    found = READERS[format_name](path)
    np.testing.assert_array_equal(found["features"], exported.content.features)
    assert found["features"].dtype == np.float32
    if "coords" in found:
        np.testing.assert_array_equal(found["coords"], exported.content.coords)
        assert found["coords"].dtype == np.int64
        facts = found["facts"]
        assert (facts["patch_size"], facts["target_magnification"], facts["encoder"]) == (128, 2.5, "enc")
        assert facts["slide"] == name.encode("utf-8", "backslashreplace").decode()
        assert not {"name", "savetodir", "list", "nan"} & set(facts)


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(NotAvailableError, match="--format h5ad needs anndata, which is not installed"):
        require_packages("h5ad", FORMATS["h5ad"].packages)
    require_packages("pt", FORMATS["pt"].packages)
