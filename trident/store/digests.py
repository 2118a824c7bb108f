"""Digests of what an output says, not of its bytes: an output made anew with the same content invalidates nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from trident.errors import StoreError
from trident.store import h5
from trident.store.recipes import sha256_of

CONTENT_ATTRIBUTE = "trident_content"
"""HDF5 attribute with the digest of a features file's content, so that gigabytes need not be read again."""

_NOT_CONTENT = {"name", "savetodir"}

__all__ = ["CONTENT_ATTRIBUTE", "coords_digest", "features_digest", "sha256_of", "tissue_digest"]


def tissue_digest(path: Path) -> str:
    """Digest of the outlines in a GeoJSON file, whatever else is in it.

    Raises:
        StoreError: the file cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError:  # not JSON: whoever reads the outlines says so; here any change must count
        return sha256_of(path)
    features = content.get("features") if isinstance(content, dict) else None
    if not isinstance(features, list):
        return sha256_of(path)
    geometries = [feature.get("geometry") if isinstance(feature, dict) else feature for feature in features]
    return _sha256(json.dumps(geometries, sort_keys=True).encode())


def coords_digest(path: Path) -> str:
    """Digest of a coordinates file: its rows and the attributes that say what they mean.

    Raises:
        StoreError: the file cannot be read.
    """
    found = h5.read_coords(path)
    attributes = {key: value for key, value in found.attributes.items() if key not in _NOT_CONTENT}
    return _sha256(json.dumps(attributes, sort_keys=True, default=str).encode(), found.coords.tobytes())


def features_digest(path: Path) -> str:
    """Digest of a features file: the one that it carries, else (another program's) that of its bytes.

    Raises:
        StoreError: the file cannot be read.
    """
    carried = h5.read_header(path).attributes.get(CONTENT_ATTRIBUTE)
    return carried if isinstance(carried, str) else sha256_of(path)


def _sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return f"sha256:{digest.hexdigest()}"
