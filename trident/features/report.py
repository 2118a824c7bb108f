"""What is told of one slide's patches once they are encoded, and where the time went."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class PhaseSeconds:
    """Where the time went; `read`, `decode` and `transform` summed over the threads, the others the loop's own.

    See `trident.store.timings`.
    """

    read: float = 0.0
    """Waiting for the file's bytes, where that can be told from decoding."""
    decode: float = 0.0
    transform: float = 0.0
    """Resizing, cropping, and whatever else the reading threads do to the pixels."""
    encode: float = 0.0
    """Starting the device and waiting for it."""
    write: float = 0.0
    """In the sink."""
    wait: float = 0.0
    """Waiting for patches: large where reading is the bottleneck."""
    others: float = 0.0
    """Encoding and writing for the other encoders of the same pass."""

    def as_dict(self) -> dict[str, float]:
        """Seconds by phase."""
        return asdict(self)


@dataclass(frozen=True)
class FeatureReport:
    """What happened to one slide's patches."""

    n_patches: int
    unreadable: list[int]
    """Indices of patches that did not decode, and were encoded as black."""
    seconds: PhaseSeconds
    batch_size: int
    """Patches encoded at once; smaller than asked for where the device's memory ran out."""
