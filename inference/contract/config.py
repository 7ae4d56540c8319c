"""The configuration of an EDTalk generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

# Limits for the values in a file, which may be damaged or forged.
LARGEST_SIZE, LARGEST_WIDTH, MOST_COEFFICIENTS = 2048, 4096, 1024
OFFICIAL_CHANNELS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64}


@dataclass(frozen=True)
class GeneratorConfig:
    """The sizes of a generator.

    size: width of the images in pixels, a power of two from 8 to 2048. style_dim: width of the latent, up to 4096.
    channels: number of feature channels by resolution, for 4, 8, ... size.
    banks: (name, number of basis vectors) in the column order of the direction matrix Q. The first two must be "lip"
        and "pose", which share one matrix as in upstream's checkpoints. A bank "exp" enables expression enhancement.
    painted: names of the last of these banks if other parts than the generator draw them, such as "eye": they have no
        column in Q.
    Raises ValueError for other values.
    """

    size: int = 256
    style_dim: int = 512
    channels: Mapping[int, int] = field(default_factory=lambda: dict(OFFICIAL_CHANNELS))
    banks: tuple[tuple[str, int], ...] = (("lip", 20), ("pose", 6), ("exp", 10))
    painted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 8 <= self.size <= LARGEST_SIZE or self.size & (self.size - 1):
            raise ValueError(f"size must be a power of two from 8 to {LARGEST_SIZE}, found {self.size}")
        for what, width in [("style_dim", self.style_dim), *(("channels", count) for count in self.channels.values())]:
            if not 1 <= width <= LARGEST_WIDTH:
                raise ValueError(f"{what} must be from 1 to {LARGEST_WIDTH}, found {width}")
        missing = [resolution for resolution in (4, *self.resolutions) if resolution not in self.channels]
        if missing:
            raise ValueError(f"channels has no entry for resolution {missing[0]}")
        names = [name for name, _ in self.banks]
        if names[:2] != ["lip", "pose"] or len(set(names)) != len(names):
            raise ValueError(f"banks must start with lip and pose and name each bank once, found {names}")
        if names[len(names) - len(self.painted) :] != list(self.painted) or {"lip", "pose", "exp"} & set(self.painted):
            raise ValueError(f"painted banks must be the last ones, after lip, pose and exp, found {self.painted}")
        if min(dim for _, dim in self.banks) < 0 or self.coefficient_count > MOST_COEFFICIENTS:
            raise ValueError(f"banks must have at most {MOST_COEFFICIENTS} vectors in all, found {self.banks}")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The resolutions of the decoder's levels: 8, 16, ... size."""
        return tuple(2**power for power in range(3, self.size.bit_length()))

    @property
    def coefficient_count(self) -> int:
        """Number of coefficients of all banks."""
        return sum(dim for _, dim in self.banks)

    @property
    def generator(self) -> GeneratorConfig:
        """The configuration without the painted banks: that of the generator's weights."""
        return replace(self, banks=self.banks[: len(self.banks) - len(self.painted)], painted=())

    @property
    def enhances_expression(self) -> bool:
        return "exp" in self.bank_slices

    @property
    def bank_slices(self) -> dict[str, slice]:
        """The columns of each bank in Q and in a row of coefficients."""
        slices, start = {}, 0
        for name, dim in self.banks:
            slices[name] = slice(start, start + dim)
            start += dim
        return slices

    def to_json(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "style_dim": self.style_dim,
            "channels": {str(resolution): count for resolution, count in sorted(self.channels.items())},
            "banks": [list(bank) for bank in self.banks],
            **({"painted": list(self.painted)} if self.painted else {}),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> GeneratorConfig:
        return GeneratorConfig(
            size=int(data["size"]),
            style_dim=int(data["style_dim"]),
            channels={int(resolution): int(count) for resolution, count in data["channels"].items()},
            banks=tuple((str(name), int(dim)) for name, dim in data["banks"]),
            painted=tuple(str(name) for name in data.get("painted", ())),
        )

    @staticmethod
    def from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> GeneratorConfig:
        """Derive the sizes from the shapes of a state dict. Raises KeyError if it is not a generator's."""
        style_dim = shapes["direction_lipnonlip.weight"][0]
        channels = {4: shapes["dec.input.input"][1]}
        level = 0
        while 2 ** (level + 2) < LARGEST_SIZE and f"dec.to_flows.{level}.conv.weight" in shapes:
            channels[2 ** (level + 3)] = shapes[f"dec.to_flows.{level}.conv.weight"][2]
            level += 1
        heads = [key.removesuffix("_fc.2.bias") for key in shapes if key.endswith("_fc.2.bias")]
        order = ["lip", "pose", *(name for name in heads if name not in ("lip", "pose"))]
        banks = tuple((name, shapes[f"{name}_fc.2.bias"][0]) for name in order)
        return GeneratorConfig(2 ** (level + 2), style_dim, channels, banks)
