"""`AttentionChain`: post-softmax attention read as a discrete-time Markov chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, SupportsIndex, overload

import torch
from torch import Tensor

from attention_chains.chain import mixing, spectrum, states, stationary, validation
from attention_chains.chain.operators import DenseOperator, Lazy, Operator, Outgoing, Product, Teleported
from attention_chains.chain.spectrum import Lambda2Info
from attention_chains.chain.states import Start
from attention_chains.chain.stationary import TokenRankInfo


class AttentionChain:
    """A batch of Markov chains over tokens, one for each attention matrix (paper, section 3.1).

    ``P[i, j]`` is the chance to go from token i (the query) to token j (the key). A state is a row vector ``v`` over
    the tokens and one bounce is ``v P``. Chains never change: every method gives a new chain or a tensor. Results are
    on the matrix's device, in float32, or in float64 for a float64 matrix, also inside an autocast region.

    Parameters
    ----------
    matrix : Tensor
        Attention after the softmax, (..., n, n), float16, bfloat16, float32 or float64: finite, not negative, rows
        summing to one within 4e-3, 3e-2, 1e-4 or 1e-5. Rows count as divided by their sums. A float32 or float64
        matrix is not copied: do not write to it while the chain is in use.

    Raises
    ------
    ChainError
        If the matrix is none; the sentence names the row, and by how much it is off.

    Examples
    --------
    The five-state chain of the paper's Fig. 2. Most attention goes to token 0, and yet token 4 matters most:

    >>> import torch
    >>> from attention_chains.chain import AttentionChain
    >>> chain = AttentionChain(torch.tensor([
    ...     [0.05, 0.05, 0.05, 0.80, 0.05],
    ...     [0.60, 0.10, 0.10, 0.10, 0.10],
    ...     [0.60, 0.10, 0.10, 0.10, 0.10],
    ...     [0.05, 0.05, 0.05, 0.05, 0.80],
    ...     [0.50, 0.05, 0.05, 0.05, 0.35]]))
    >>> chain
    AttentionChain(n=5, batch_shape=(), dtype=torch.float32, device=cpu)
    >>> chain.bounce("uniform")
    tensor([0.3600, 0.0700, 0.0700, 0.2200, 0.2800])
    >>> chain.tokenrank()
    tensor([0.2720, 0.0556, 0.0556, 0.2595, 0.3574])
    """

    def __init__(self, matrix: Tensor):
        wide, sums = validation.transition_matrix(matrix)
        self._operator: Operator = DenseOperator(wide, 1 / sums)

    @classmethod
    def from_scores(cls, logits: Tensor) -> AttentionChain:
        """Build the chain of attention logits, by a softmax in float32 (float64 stays float64).

        Parameters
        ----------
        logits : Tensor
            Scaled scores before the softmax, (..., n, n), any float type; -inf where a key is masked.

        Raises
        ------
        ChainError
            If the logits are not square, hold NaN or +inf, or mask every key of a token.

        Examples
        --------
        >>> AttentionChain.from_scores(torch.tensor([[0.0, 0.0], [-torch.inf, 1.0]])).matrix()
        tensor([[0.5000, 0.5000],
                [0.0000, 1.0000]])
        """
        return cls._over(DenseOperator.normalising(validation.scores(logits).softmax(-1)))

    @classmethod
    def _over(cls, operator: Operator) -> AttentionChain:
        """Wrap an operator that is known to be row-stochastic."""
        chain = cls.__new__(cls)
        chain._operator = operator
        return chain

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self._operator.n

    @property
    def batch_shape(self) -> torch.Size:
        """Dimensions before the tokens, such as (images, heads)."""
        return self._operator.batch_shape

    @property
    def dtype(self) -> torch.dtype:
        """Type of the results, float32 or float64."""
        return self._operator.dtype

    @property
    def device(self) -> torch.device:
        """Where the chain and its results live."""
        return self._operator.device

    def __repr__(self) -> str:
        """Name the sizes, not the numbers."""
        batch = tuple(self.batch_shape)
        return f"AttentionChain(n={self.n}, batch_shape={batch}, dtype={self.dtype}, device={self.device})"

    def matrix(self) -> Tensor:
        """Return the dense transition matrix P, (..., n, n), as a new tensor; rows sum to one."""
        return self._operator.dense()

    def teleport(self, alpha: float = 0.99, target: Tensor | None = None) -> AttentionChain:
        """Return ``alpha P + (1 - alpha) 1 p^T``: PageRank's random surfer (paper, section 3.1; protocol 0.2).

        Teleport stays implicit: no second n x n is stored. Before `outgoing` it is the official order.

        Parameters
        ----------
        alpha : float
            Share of the bounces that follow P, in (0, 1]; 1 changes nothing.
        target : Tensor, optional
            Where the others land: a distribution p, (n,) or (..., n) within the batch dimensions. Uniform by default.

        Raises
        ------
        ChainError
            If alpha is out of range or the target is no distribution over the tokens.

        Examples
        --------
        >>> chain.teleport(0.99).tokenrank()
        tensor([0.2718, 0.0572, 0.0572, 0.2590, 0.3549])
        """
        alpha = validation.alpha(alpha)
        target = states.uniform(self._operator) if target is None else validation.target(target, self._operator)
        return self if alpha == 1 else self._over(Teleported(self._operator, alpha, target))

    def outgoing(self) -> AttentionChain:
        """Return the chain of the columns: normalise each, then transpose (paper, section 4.2).

        Its first bounce from token j is column-select: who looks at j, as a distribution. A teleported chain is
        teleported first and column-normalised then, as in the official code. Without teleport, the column of a token
        that no one looks at is 0 / 0; it becomes a uniform row, the limit of teleporting ever less. Stays implicit.

        Examples
        --------
        >>> chain.outgoing().bounce(4, n=1)
        tensor([0.0357, 0.0714, 0.0714, 0.5714, 0.2500])
        >>> chain.outgoing().tokenrank()
        tensor([0.2038, 0.2244, 0.2244, 0.1758, 0.1716])
        """
        return self._over(Outgoing.of(self._operator))

    def lazy(self, stay: float = 0.5) -> AttentionChain:
        """Return ``stay I + (1 - stay) P``: the same stationary vector, each eigenvalue z moved to stay + (1 - stay) z.

        With stay = 0.5 this is attention with the residual connection, and (1 + z) / 2 (paper, section 4.1).

        Parameters
        ----------
        stay : float
            Chance of not moving, in [0, 1).

        Raises
        ------
        ChainError
            If stay is out of range.

        Examples
        --------
        >>> chain.lazy().tokenrank()
        tensor([0.2720, 0.0556, 0.0556, 0.2595, 0.3574])
        """
        return self._over(Lazy(self._operator, validation.stay(stay)))

    def drop(self, tokens: SupportsIndex | Sequence[int] | Tensor) -> AttentionChain:
        """Return the chain without some tokens, such as CLS: rows and columns deleted, rows normalised (protocol 0.2).

        For attention straight from a softmax this equals deleting them from the scores. Forms the dense matrix.

        Parameters
        ----------
        tokens : int, sequence of int or Tensor
            Indices of the tokens to drop, the same for the whole batch; the others keep their order.

        Raises
        ------
        ChainError
            If an index is out of range, if nothing is left, or if some token attends to dropped tokens only.

        Examples
        --------
        >>> chain.drop(0).bounce(3)  # token 4, now the fourth
        tensor([0.1000, 0.1000, 0.1000, 0.7000])
        """
        keep = validation.kept_tokens(tokens, self._operator)
        kept = self.matrix().index_select(-2, keep).index_select(-1, keep)
        validation.rows_left(kept, keep)
        return self._over(DenseOperator.normalising(kept))

    def __matmul__(self, other: AttentionChain) -> AttentionChain:
        """Chain two chains: first a bounce of self, then one of other; batch dimensions broadcast.

        Attention rollout of layers 1 to L, with the residual connections, walks from the top:
        ``layer_L.lazy() @ ... @ layer_1.lazy()``. Stays implicit: a bounce takes both factors in turn.

        Raises
        ------
        ChainError
            If the tokens, devices or batch dimensions do not fit.

        Examples
        --------
        >>> torch.allclose((chain @ chain).bounce(4), chain.bounce(4, n=2))
        True
        """
        if not isinstance(other, AttentionChain):
            return NotImplemented
        validation.followers(self._operator, other._operator)
        return self._over(Product(self._operator, other._operator))

    def mix(self, weights: Literal["uniform", "lambda2"] | Tensor = "uniform", dim: int = -1) -> AttentionChain:
        """Return the weighted mean of the chains along one batch dimension, such as the heads (paper, section 4.4).

        Parameters
        ----------
        weights : "uniform", "lambda2" or Tensor
            "lambda2" weighs each chain by its lambda2, so that slowly mixing, structured heads count most; where all
            are zero (up to 1e-6) the mean is uniform. A tensor, (heads,) or of the batch shape, holds no negative
            weight. Weights are divided by their sum.
        dim : int
            Which batch dimension to average; counts among the batch dimensions alone, so -1 is the one before (n, n).

        Raises
        ------
        ChainError
            If there is no such batch dimension, or the weights have another shape, are negative, or are all zero.

        Examples
        --------
        >>> heads = AttentionChain(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.7, 0.3], [0.2, 0.8]]]))
        >>> heads.lambda2()
        tensor([1.0000, 0.5000])
        >>> heads.mix("lambda2").matrix()
        tensor([[0.9000, 0.1000],
                [0.0667, 0.9333]])
        """
        return self._over(mixing.mix(self._operator, weights, dim))

    def step(self, state: Tensor) -> Tensor:
        """Return ``v P`` for any row vectors v, distributions or not.

        Parameters
        ----------
        state : Tensor
            (..., n), any float type; dimensions in front of the chain's batch dimensions are further states.

        Returns
        -------
        Tensor
            (..., n), in the chain's dtype.

        Raises
        ------
        ChainError
            If the state's shape does not fit.
        """
        return self._operator.apply(validation.state(state, "state", self._operator))

    def bounce(self, start: Start, n: SupportsIndex = 1) -> Tensor:
        """Return the state after n bounces, ``v P^n`` (paper, sections 4.1 and 4.2).

        Parameters
        ----------
        start : int, Tensor or "uniform"
            A token index, a tensor of them that fits the batch dimensions, "uniform", or a distribution (..., n).
        n : int
            Number of bounces, at least 0. One from a token is row-select; one from "uniform" is column sum, over n.

        Returns
        -------
        Tensor
            Distributions, (..., n): the batch dimensions, broadcast with the start's.

        Raises
        ------
        ChainError
            If an index is out of range, a distribution is none, or n is negative.

        Examples
        --------
        >>> chain.bounce(4, n=2)
        tensor([0.2625, 0.0550, 0.0550, 0.4300, 0.1975])
        """
        state = states.initial(start, self._operator)
        for _ in range(validation.bounces(n)):
            state = self._operator.apply(state)  # (..., n_tokens)
        return state

    def bounces(self, start: Start, n: SupportsIndex) -> Tensor:
        """Return the start and every bounce after it, (n + 1, ..., n_tokens); arguments as in `bounce`.

        Examples
        --------
        >>> chain.bounces(4, n=2)
        tensor([[0.0000, 0.0000, 0.0000, 0.0000, 1.0000],
                [0.5000, 0.0500, 0.0500, 0.0500, 0.3500],
                [0.2625, 0.0550, 0.0550, 0.4300, 0.1975]])
        """
        walk = [states.initial(start, self._operator)]
        for _ in range(validation.bounces(n)):
            walk.append(self._operator.apply(walk[-1]))
        return torch.stack(walk)

    @overload
    def tokenrank(self, tol: float = ..., return_info: Literal[False] = ...) -> Tensor: ...
    @overload
    def tokenrank(self, tol: float = ..., *, return_info: Literal[True]) -> tuple[Tensor, TokenRankInfo]: ...
    def tokenrank(self, tol: float = 1e-5, return_info: bool = False) -> Tensor | tuple[Tensor, TokenRankInfo]:
        """Return the stationary vector, ``x = x P`` (paper, section 4.3).

        A teleported chain takes power steps in float64 until its L1 error, at most ``||x - xP||_1 / (1 - alpha)``,
        meets the tolerance. Any other chain, an outgoing one too, is squared in float64 until its rows agree, O(n^3):
        the Cesaro limit from uniform. It exists for every chain, is the stationary vector wherever there is only one,
        and is what the teleported TokenRank goes to for alpha -> 1.

        Parameters
        ----------
        tol : float
            Largest L1 error to accept; not a step size. Below 1e-7 it takes a float64 chain.
        return_info : bool
            Whether to return a `TokenRankInfo` too.

        Returns
        -------
        rank : Tensor
            Distributions, (..., n), in the chain's dtype.
        info : TokenRankInfo
            Iterations, residual, certified L1 bound and whether it converged, each of the batch shape.

        Raises
        ------
        ChainError
            If tol is not above zero.

        Examples
        --------
        >>> rank, info = chain.teleport(0.99).tokenrank(tol=1e-5, return_info=True)
        >>> bool(info.converged), bool(info.bound <= 1e-5)
        (True, True)
        """
        rank, info = stationary.tokenrank(self._operator, validation.tolerance(tol))
        return (rank, info) if return_info else rank

    @overload
    def lambda2(self, tol: float = ..., return_info: Literal[False] = ...) -> Tensor: ...
    @overload
    def lambda2(self, tol: float = ..., *, return_info: Literal[True]) -> tuple[Tensor, Lambda2Info]: ...
    def lambda2(self, tol: float = 1e-4, return_info: bool = False) -> Tensor | tuple[Tensor, Lambda2Info]:
        """Return the modulus of the second largest eigenvalue (paper, section 4.4): near 1 mixes slowly, 0 at once.

        From all eigenvalues in float64, so that complex pairs come out right. Teleport scales lambda2 by alpha exactly,
        but not if `outgoing` comes after it.

        Parameters
        ----------
        tol : float
            Relative error to accept in `Lambda2Info.converged`; the value itself is always found to round-off.
        return_info : bool
            Whether to return a `Lambda2Info` too; takes twice the time.

        Returns
        -------
        lambda2 : Tensor
            In [0, 1], of the batch shape, in the chain's dtype; 0 for a single token.
        info : Lambda2Info
            Estimated error, and whether it meets the tolerance: where not, lambda2 is ill-posed.

        Raises
        ------
        ChainError
            If tol is not above zero.

        Examples
        --------
        >>> chain.lambda2(), chain.teleport(0.99).lambda2()
        (tensor(0.5809), tensor(0.5751))
        """
        tol = validation.tolerance(tol)
        if not return_info:
            return spectrum.lambda2(self._operator).to(self.dtype)
        value, info = spectrum.lambda2_with_info(self._operator, tol)
        return value.to(self.dtype), info
