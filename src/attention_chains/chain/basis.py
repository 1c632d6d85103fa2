"""Orthonormal rows that grow one by one, for a batch of Krylov spaces, and what they are made of."""

from __future__ import annotations

import torch
from torch import Tensor


class Basis:
    """Memory for the rows of B bases, and for their parts, which makes rows orthonormal.

    ``rows`` (B, fixed + held, n): some fixed ones, to be kept out of all that follow; then the first block of the basis
    itself. A row that is put behind, at `place`, is usually the image of an earlier one: then ``images`` (B, images,
    fixed + held) says what it was in terms of all rows, in its row ``place - fixed - block``.
    """

    def __init__(
        self, bases: int, n: int, fixed: int, block: int, images: int, dtype: torch.dtype, device: torch.device
    ):
        self.fixed, self.block = fixed, block
        self.rows = torch.empty(bases, fixed + block + images, n, dtype=dtype, device=device)
        self.images = torch.zeros(bases, images, fixed + block + images, dtype=dtype, device=device)
        self._start()

    def _start(self) -> None:
        self._places: dict[int, tuple[Tensor, ...]] = {}  # lambda2 visits one again for each chain and restart
        # Where a number can be read at no cost, to branch on it takes fewer steps than to do all for all bases.
        self.readable = self.block == 1 and len(self.rows) == 1 and self.rows.device.type == "cpu"

    def split(self, row: Tensor, place: int) -> tuple[Tensor, Tensor, Tensor]:
        """Take out of a row (B, 1, n) what lies along those before its place, and write that, and what length is left.

        By classical Gram-Schmidt, twice; what the second time takes away is round-off, too little to be written down.
        One basis on a CPU does without it where the first time left more than it took, as ARPACK does: what two rows
        overlap, by round-off, passes on to the next times what was taken over what is left. Were that above one, a few
        rows that lean on the last, as those of lazy chains do, would make an overlap of round-off one of everything.

        Returns
        -------
        row : Tensor
            (B, 1, n), orthogonal, not of norm one.
        length, place : Tensor
            (B, 1, 1), its norm, where that is written; and (B, 1, n), the place for the row.
        """
        behind, turned, part, length, new, flat = self._places.get(place) or self._made(place)
        row = torch.baddbmm(row, torch.bmm(row, turned, out=part), behind, alpha=-1)
        if self.readable:
            left = torch.linalg.vector_norm(row, dim=-1, keepdim=True, out=length).item()
            if left * left > torch.dot(flat, flat).item():
                return row, length, new
        row = torch.baddbmm(row, torch.bmm(row, turned), behind, alpha=-1)
        torch.linalg.vector_norm(row, dim=-1, keepdim=True, out=length)
        return row, length, new

    def select(self, bases: Tensor) -> None:
        """Go on with some of the bases, by their indices."""
        self.rows, self.images = self.rows[bases], self.images[bases]
        self._start()

    def _made(self, place: int) -> tuple[Tensor, ...]:
        """Make what it takes to put a row at a place, once: that takes as long as a product.

        The rows before it, the same transposed; where to write the parts along those, the length, and the row; and the
        parts of the first basis, flat.
        """
        behind = self.rows.narrow(1, 0, place)
        image = self.images.narrow(1, place - self.fixed - self.block, 1)
        part, length, new = image.narrow(2, 0, place), image.narrow(2, place, 1), self.rows.narrow(1, place, 1)
        self._places[place] = made = (behind, behind.mT, part, length, new, part[0, 0])
        return made


def random_rows(count: int, n: int, centred: bool) -> Tensor:
    """Return orthonormal random rows (count, n) on the CPU, after the constant one if it is to be kept out of a basis.

    They are the same for every chain of n tokens, whatever else is in its batch.
    """
    columns = torch.ones(n, centred + count, dtype=torch.float64, device="cpu")
    columns[:, int(centred) :] = torch.randn(count, n, generator=torch.Generator().manual_seed(0), device="cpu").mT
    unit, upper = torch.linalg.qr(columns)
    return (unit * upper.diagonal().sign()).mT
