"""Reads coefficients from pictures with the networks of one bank. The interface uses numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...contract.bank import Bank
from ...contract.coefficients import Coefficients
from ...face.landmarks import Landmarks, with_lips
from ...lanes import Lanes
from ...media.picture import frames_to_network
from ..batches import batches, check_picture
from ..gaze import estimate_gaze, estimate_gazes, faces_in
from ..insets import InsetSource
from ..load import Networks
from .look import look_at, nine_points
from .relative import RestFlow, RestWindow, cut_windows


class RestReference(NamedTuple):
    """A neutral picture of a person, prepared for `FaceReader.compare`."""

    flow: RestFlow
    windows: list[RestWindow]
    known: InsetSource  # where eyes and mouth are, and how the refiner moves them
    gaze: np.ndarray  # (2,), see `inference.model.gaze.estimate_gaze`; (0,) if the bank does not have it


class FaceReader:
    """Reads faces in batches of a fixed size, so that a picture's coefficients do not depend on its neighbours."""

    def __init__(self, networks: Networks, bank: Bank, device: torch.device, batch: int, lanes: Lanes) -> None:
        """networks: those of the bank. lanes: for the batches."""
        self._lanes = lanes
        self.networks, self.names, self.size = networks, bank.names, bank.config.size
        self._read_count = bank.config.generator.coefficient_count
        self._slices = bank.config.generator.bank_slices
        self._device, self._batch = device, batch
        # A source is encoded alone. Its coefficients equal those of the same picture here, but for those of a `Look`.
        self._encoded_at_once = 1 if networks.reader is None and device.type == "cpu" else batch

    def encode(self, images: Iterable[np.ndarray], gaze: bool = True) -> Coefficients:
        """Absolute coefficients of each picture, N rows in order.

        images: uint8 (H, W, 3) RGB each, resized to the bank's size. Read with the bank's own reader if it has one,
        else with the generator's encoder. Coefficients that have a `Look` are read from its window. gaze: False leaves
        the gaze at zero, if the bank has it.
        """
        rows = [np.zeros((0, len(self.names)), np.float32), *self.encode_each(images, gaze)]
        return Coefficients(np.concatenate(rows), self.names)

    def encode_each(self, images: Iterable[np.ndarray], gaze: bool = True) -> Iterator[np.ndarray]:
        """As `encode`, but yields the rows in blocks (k, n) as they are read."""

        def encoded(batch: tuple[list[np.ndarray], int]) -> np.ndarray:
            pictures, count = batch
            read = self._encode(np.stack([self._planes(image) for image in pictures]), pictures)
            if not gaze:
                return np.pad(read, ((0, 0), (0, len(self.names) - read.shape[1])))[:count]
            return self._with_gaze(read, pictures)[:count]

        return self._lanes.map(encoded, batches(images, self._encoded_at_once))

    def _with_gaze(self, rows: np.ndarray, images: Sequence[np.ndarray], faces: Landmarks | None = None) -> np.ndarray:
        """(N, n): rows (N, m) of the coefficients that the networks read, with the gaze if the bank has it.

        faces: landmarks of the images if they are known, see `faces_in`.
        """
        if not self._reads_gaze:
            return rows
        return np.concatenate([rows, estimate_gazes(images, faces_in(images) if faces is None else faces)], axis=1)

    @property
    def _reads_gaze(self) -> bool:
        """Whether the bank has the gaze, which no network of it reads."""
        return self._read_count < len(self.names)

    @property
    def can_compare(self) -> bool:
        """Whether the bank has a relative reader, which `compare` needs."""
        return self.networks.relative_reader is not None

    @property
    def comparing_size(self) -> int:
        """Size in pixels of the pictures that `compare` uses in full; larger ones are reduced to it."""
        return self.size * (2 if self.can_compare else 1)

    @torch.no_grad()
    def rest_reference(self, image: np.ndarray) -> RestReference:
        """Prepare a neutral picture for `compare`.

        image: uint8 (H, W, 3), a person at rest; it is resized to `comparing_size`. Only for a bank that `can_compare`.
        """
        planes, insets, refiner = self._planes(image), self.networks.insets, self.networks.refiner
        picture = torch.from_numpy(planes[None]).to(self._device)
        known = insets.prepare(picture, refiner.motion_fields(picture), insets.find_anchors(picture))
        windows = [RestWindow(window) for (window,) in cut_windows([self._large(image)], known.anchors)]
        gaze = estimate_gaze(image) if self._reads_gaze else np.zeros(0, np.float32)
        return RestReference(RestFlow(planes), windows, known, gaze)

    def compare(self, rest: RestReference, images: Iterable[np.ndarray]) -> np.ndarray:
        """(N, n) float32: the coefficients of each picture minus those of the neutral picture.

        images: as for `encode`, of the same person in the same square; they are resized to `comparing_size`. Only for a
        bank that `can_compare`.
        """
        return np.concatenate([np.zeros((0, len(self.names)), np.float32), *self.compare_each(rest, images)])

    def compare_each(
        self,
        rest: RestReference,
        images: Iterable[np.ndarray],
        measure: Callable[[Landmarks], np.ndarray] | None = None,
    ) -> Iterator[np.ndarray]:
        """As `compare`, but yields the rows in blocks (k, n) as they are read.

        measure: takes the landmarks of k faces, found with a closer look at the lips, and returns numbers (k, m), which
        are appended to the rows. They are in pixels of the images.
        """

        def compared(batch: tuple[list[np.ndarray], int]) -> np.ndarray:
            pictures, count = batch
            faces = faces_in(pictures) if measure else None
            read = self._with_gaze(self._compare(rest, pictures), pictures, faces)
            read[:, self._read_count :] -= rest.gaze
            if measure and faces:
                read = np.hstack([read, measure(with_lips(pictures, faces))])
            return read[:count]

        return self._lanes.map(compared, batches(images, self._batch))

    @torch.inference_mode()
    def _encode(self, planes: np.ndarray, images: Sequence[np.ndarray]) -> np.ndarray:
        pictures, reader, encoder = (
            torch.from_numpy(planes).to(self._device),
            self.networks.reader,
            self.networks.encoder,
        )
        if reader is not None:
            return reader(pictures).cpu().numpy()
        latent, _ = encoder(pictures)
        return self._with_looks(encoder.coefficients(latent), pictures, images).cpu().numpy()

    def _with_looks(self, rows: Tensor, pictures: Tensor, images: Sequence[np.ndarray]) -> Tensor:
        """Rows (N, n) with the coefficients of every `Look` from its window, where that can be seen."""
        if not self.networks.looks:
            return rows
        result, (points, seen) = rows.clone(), nine_points(images)
        for bank, look in self.networks.looks.items():
            read = look(self.networks.encoder(look_at(pictures, points, self.size, look.window))[0])
            at = torch.from_numpy(seen[:, look.landmarks].all(1)).to(rows.device)[:, None]
            columns = self._slices[bank]
            result[:, columns] = torch.where(at, read, rows[:, columns])
        return result

    @torch.inference_mode()
    def compared_windows(self, rest: RestReference, images: Sequence[np.ndarray]) -> tuple[list[Tensor], Tensor]:
        """What `WindowReader.refine` takes: windows beside those of the neutral picture, and a first estimate (N, m).

        images: N pictures as for `compare`.
        """
        reader, refiner, insets = self.networks.relative_reader, self.networks.refiner, self.networks.insets
        flow = np.stack([rest.flow.to(self._planes(image)) for image in images])
        estimate = reader.estimate(torch.from_numpy(flow).to(self._device))
        turned = refiner.motion_weights(estimate * insets.pose)
        cut = cut_windows([self._large(image) for image in images], rest.known.anchors_at(turned))
        windows = [
            torch.from_numpy(np.stack([reference.compare(window) for window in shown]))
            .to(self._device)
            .permute(0, 3, 1, 2)
            for reference, shown in zip(rest.windows, cut, strict=True)
        ]
        return windows, estimate

    @torch.inference_mode()
    def _compare(self, rest: RestReference, images: Sequence[np.ndarray]) -> np.ndarray:
        """The differences (N, m) of the coefficients that the networks read."""
        windows, estimate = self.compared_windows(rest, images)
        return self.networks.relative_reader.refine(windows, estimate).cpu().numpy()

    def _planes(self, image: np.ndarray) -> np.ndarray:
        """float32 (3, S, S) in [-1, 1]."""
        return frames_to_network(check_picture(image)[None], self.size)[0]

    def _large(self, image: np.ndarray) -> np.ndarray:
        """float32 (R, R, 3) in [-1, 1] for R = comparing_size."""
        planes = frames_to_network(check_picture(image)[None], self.comparing_size)[0]
        return np.ascontiguousarray(planes.transpose(1, 2, 0))
