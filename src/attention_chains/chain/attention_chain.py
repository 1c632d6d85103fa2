"""`AttentionChain`: post-softmax attention read as a discrete-time Markov chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, SupportsIndex, overload

import torch
from torch import Tensor

from attention_chains.chain import (
    convergence,
    dropped,
    fused,
    metastable,
    mixing,
    rectangular,
    spectrum,
    states,
    stationary,
    validation,
)
from attention_chains.chain.derived import Lazy, Outgoing, Product, Teleported
from attention_chains.chain.metastable import MetastableInfo
from attention_chains.chain.operators import DenseOperator, Operator
from attention_chains.chain.spectrum import Lambda2Info
from attention_chains.chain.states import Start
from attention_chains.chain.stationary import TokenRankInfo

Method = Literal["krylov", "power"]
Stop = Literal["bound", "paper", "official"]


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
    AttentionChain(n=5, batch_shape=(), dtype=torch.float32, device=cpu, storage=dense)
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
    def from_qk(
        cls,
        q: Tensor,
        k: Tensor,
        scale: float | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        storage: Literal["auto", "dense", "fused"] = "auto",
    ) -> AttentionChain:
        """Build the chain of softmax(scale q k^T + mask) from queries and keys, if need be without forming it.

        A fused chain has the same methods and gives the same results as a dense one, within 1e-5 in float32, in
        O(n d) memory: every bounce computes the attention anew. Both are computed in float32 from float16 and bfloat16
        queries and keys, in float64 from float64 ones. What needs float64 (certified bounds, `outgoing`) computes the
        attention in float64 from the same q and k. `matrix`, of course, forms the matrix.

        Parameters
        ----------
        q : Tensor
            Queries, (..., n, d), any float type. Not copied: do not write to it while the chain is in use.
        k : Tensor
            Keys, the same shape, or with fewer heads in dimension -3 that divide those of q: grouped-query attention,
            key head h // (heads of q / heads of k) for query head h. Nothing is repeated.
        scale : float, optional
            Factor of q k^T, d^-0.5 by default.
        mask : Tensor, optional
            Broadcasts to (..., n, n), and is never expanded: (..., 1, n) masks keys. Boolean (True: may attend) or
            added to the logits (-inf masks).
        causal : bool
            Whether token i attends only to tokens 0 to i, within the mask. Halves the work.
        storage : "auto", "dense" or "fused"
            Whether to keep the matrix, which then makes a bounce much faster. "auto" keeps it where all (..., n, n)
            take up to an eighth of the memory: on CUDA of what is free, else of what the machine has. `storage` says
            which it was.

        Raises
        ------
        ChainError
            If the shapes, types or devices do not fit, if the mask leaves a token no key, or if logits are not finite.

        Examples
        --------
        >>> q, k = torch.eye(3), torch.eye(3)
        >>> free = AttentionChain.from_qk(q, k, scale=1.0, causal=True, storage="fused")
        >>> free
        AttentionChain(n=3, batch_shape=(), dtype=torch.float32, device=cpu, storage=fused)
        >>> free.bounce(1)
        tensor([0.2689, 0.7311, 0.0000])
        """
        return cls._over(fused.from_qk(q, k, scale, mask, causal, storage))

    @classmethod
    def from_cross(cls, scores: Tensor, probabilities: bool = False) -> AttentionChain:
        """Build a chain of cross-attention, m queries by n keys, with dummy states (paper, section 6, open question).

        The chain has m + n states: the queries, then the keys. A query goes to the keys as it attends; a key, which
        attends to nothing, goes to every query alike. So a bounce from query i is row i of the attention, and an
        outgoing bounce from key j, state m + j, is its column, as a distribution over the queries.

        Its stationary vector is in closed form: 1 / (2 m) for each query, half the mean attention it gets for each key.
        `tokenrank` of the keys is thus their column sum, also in order after `teleport`. The walk alternates between
        queries and keys, so its bounces never settle (`tokenrank` is the mean over time) and `lambda2` is 1 whatever
        the attention: alpha after `teleport`, max(stay, abs(2 stay - 1)) after `lazy`, which ends the alternation.
        `rectangular.queries_and_keys` cuts a state into its two parts.

        Parameters
        ----------
        scores : Tensor
            Scaled scores before the softmax, (..., m, n), any float type; -inf where a key is masked.
        probabilities : bool
            Whether `scores` is attention after the softmax instead, rows summing to one as for `AttentionChain`.

        Raises
        ------
        ChainError
            If the scores are not (..., m, n), hold NaN or +inf, or mask every key of a query; if the probabilities
            are negative or do not sum to one.

        Examples
        --------
        Two pixels, three words:

        >>> cross = AttentionChain.from_cross(torch.tensor([[0.8, 0.1, 0.1], [0.4, 0.6, 0.0]]), probabilities=True)
        >>> cross.bounce(1)
        tensor([0.0000, 0.0000, 0.4000, 0.6000, 0.0000])
        >>> cross.outgoing().bounce(2)
        tensor([0.6667, 0.3333, 0.0000, 0.0000, 0.0000])
        >>> cross.tokenrank()
        tensor([0.2500, 0.2500, 0.3000, 0.1750, 0.0250])
        """
        return cls._over(rectangular.from_cross(scores, probabilities))

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

    @property
    def storage(self) -> Literal["dense", "fused"]:
        """Whether the matrix is stored, "dense", or computed anew for every bounce, "fused"; see `from_qk`."""
        return "fused" if self._operator.matrix_free else "dense"

    def __repr__(self) -> str:
        """Name the sizes, not the numbers."""
        sizes = f"n={self.n}, batch_shape={tuple(self.batch_shape)}, dtype={self.dtype}, device={self.device}"
        return f"AttentionChain({sizes}, storage={self.storage})"

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
        teleported first and column-normalised then, as in the official code; ``outgoing().teleport(alpha)`` is the
        other order. Without teleport, the column of a token that no one looks at is 0 / 0; it becomes a uniform row,
        the limit of teleporting ever less. Stays implicit.

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

        For attention straight from a softmax this equals deleting them from the scores. Forms the dense matrix, or for
        a fused chain none.

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
        return self._over(dropped.drop(self._operator, validation.kept_tokens(tokens, self._operator)))

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
    def tokenrank(
        self, tol: float = ..., method: Method = ..., stop: Stop = ..., return_info: Literal[False] = ...
    ) -> Tensor: ...
    @overload
    def tokenrank(
        self, tol: float = ..., method: Method = ..., stop: Stop = ..., *, return_info: Literal[True]
    ) -> tuple[Tensor, TokenRankInfo]: ...
    def tokenrank(
        self, tol: float = 1e-5, method: Method = "krylov", stop: Stop = "bound", return_info: bool = False
    ) -> Tensor | tuple[Tensor, TokenRankInfo]:
        """Return the stationary vector, ``x = x P`` (paper, section 4.3).

        Four rankings have names: ``chain.teleport(a).tokenrank()`` is incoming TokenRank,
        ``chain.teleport(a).outgoing().tokenrank()`` is outgoing TokenRank as in the official code (teleport before the
        columns are normalised), ``chain.outgoing().teleport(a).tokenrank()`` teleports after it, and without teleport
        it is the Cesaro limit from uniform. That exists for every chain, is the stationary vector wherever there is
        only one, and is what the teleported TokenRank goes to for alpha -> 1.

        By default it is found by GMRES on the states that sum to zero, or for a few hundred tokens by LU, and is
        certified: the L1 error is at most ``||x - xP||_1 / (1 - alpha)`` with teleport, and ``2 h ||x - xP||_1``
        without, h the longest mean time until the chain hits its first-ranked token. Chains that cannot be certified
        so, such as those with several closed classes, are squared in float64 until their rows agree, O(n^3), if they
        are dense.

        Differentiable with respect to the attention, wherever the stationary vector is the only one: implicitly, at
        the cost of a second solve. No second derivatives.

        Parameters
        ----------
        tol : float
            Largest L1 error to accept; not a step size. Below 1e-7 it takes a float64 chain. For the stopping rules
            "paper" and "official" it is their threshold.
        method : "krylov" or "power"
            "power" bounces from uniform until the stopping rule is met.
        stop : "bound", "paper" or "official"
            "bound" stops when the error is certified, in float64. The other two are protocols of the power method, in
            the chain's own type, and promise nothing about the error: "paper" stops when the squared L2 norm of a step
            is below tol (section 3.1), "official" renormalises each step and stops when its L1 norm is below tol, or
            after 200 steps (protocol 0.2). For a fixed number of steps, call ``bounce("uniform", n)``.
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
            If tol is not above zero, method and stop do not fit, or the power method cannot certify: without teleport.

        Examples
        --------
        >>> rank, info = chain.teleport(0.99).tokenrank(tol=1e-5, return_info=True)
        >>> bool(info.converged), bool(info.bound <= 1e-5)
        (True, True)
        >>> chain.teleport(0.99).tokenrank(method="power", stop="official")
        tensor([0.2718, 0.0572, 0.0572, 0.2590, 0.3549])
        """
        validation.stopping(method, stop)
        rank, info = stationary.tokenrank(self._operator, validation.tolerance(tol), method, stop)
        return (rank, info) if return_info else rank

    @overload
    def tokenranks(
        self, alphas: Sequence[float] | Tensor, tol: float = ..., return_info: Literal[False] = ...
    ) -> Tensor: ...
    @overload
    def tokenranks(
        self, alphas: Sequence[float] | Tensor, tol: float = ..., *, return_info: Literal[True]
    ) -> tuple[Tensor, TokenRankInfo]: ...
    def tokenranks(
        self, alphas: Sequence[float] | Tensor, tol: float = 1e-5, return_info: bool = False
    ) -> Tensor | tuple[Tensor, TokenRankInfo]:
        """Return ``teleport(alpha).tokenrank(tol)`` for several alphas, from one Krylov space: little dearer than one.

        Parameters
        ----------
        alphas : sequence of float, or Tensor
            Shares of the bounces that follow P, each in (0, 1].
        tol : float
            Largest L1 error to accept.
        return_info : bool
            Whether to return a `TokenRankInfo` too, its fields (alphas, ...).

        Returns
        -------
        Tensor
            Distributions, (alphas, ..., n), in the chain's dtype.

        Raises
        ------
        ChainError
            If an alpha is out of range, there is none, or tol is not above zero.

        Examples
        --------
        >>> chain.tokenranks([0.5, 0.99])
        tensor([[0.2547, 0.1316, 0.1316, 0.2271, 0.2550],
                [0.2718, 0.0572, 0.0572, 0.2590, 0.3549]])
        """
        checked, target = validation.alphas(alphas), states.uniform(self._operator)
        ranks, info = stationary.tokenranks(self._operator, checked, target, validation.tolerance(tol))
        return (ranks, info) if return_info else ranks

    def mixing_time(self, eps: float = 0.25) -> Tensor:
        """Return the number of bounces until every start is within eps of stationary, in total variation.

        From powers of the matrix in float64, P^2, P^4, ... and back by halves: O(n^3), for dense chains.

        Parameters
        ----------
        eps : float
            Total variation distance, half the L1 distance, in (0, 0.5).

        Returns
        -------
        Tensor
            Bounces, int64, of the batch shape. The largest int64, ``torch.iinfo(torch.int64).max``, for a chain that
            never mixes, periodic or with several closed classes, or not in 2^50 bounces.

        Raises
        ------
        ChainError
            If eps is out of range, or the chain is matrix-free.

        Examples
        --------
        >>> chain.mixing_time(), chain.teleport(0.5).mixing_time()
        (tensor(3), tensor(2))
        """
        eps = validation.distance(eps)
        validation.dense(self._operator, "the mixing time", "count from one start with first_bounces_until")
        return convergence.mixing_time(self._operator, eps)

    def first_bounces_until(self, tol: float = 1e-3, start: Start = "uniform", limit: SupportsIndex = 10_000) -> Tensor:
        """Return how many bounces from a start it takes until the state is within tol of stationary, in L1.

        Parameters
        ----------
        tol : float
            Largest L1 distance to TokenRank, in (0, 2).
        start : int, Tensor or "uniform"
            As in `bounce`.
        limit : int
            Bounces to try.

        Returns
        -------
        Tensor
            Bounces, int64, (...,): the batch dimensions, broadcast with the start's. The largest int64,
            ``torch.iinfo(torch.int64).max``, where the limit did not do.

        Raises
        ------
        ChainError
            If tol is not above zero, the limit is negative, or the start is none.

        Examples
        --------
        >>> chain.first_bounces_until(1e-3), chain.first_bounces_until(1e-3, start=4)
        (tensor(11), tensor(13))
        """
        tol, limit = validation.tolerance(tol), validation.bounces(limit)
        return convergence.first_bounces_until(self._operator, tol, states.initial(start, self._operator), limit)

    @overload
    def lambda2(self, tol: float = ..., return_info: Literal[False] = ...) -> Tensor: ...
    @overload
    def lambda2(self, tol: float = ..., *, return_info: Literal[True]) -> tuple[Tensor, Lambda2Info]: ...
    def lambda2(self, tol: float = 1e-4, return_info: bool = False) -> Tensor | tuple[Tensor, Lambda2Info]:
        """Return the modulus of the second largest eigenvalue (paper, section 4.4): near 1 mixes slowly, 0 at once.

        By bounces of a vector that sums to zero (an Arnoldi method: complex pairs come out right), until the residual
        times the condition number is well below the tolerance; again in float64 where float32 cannot tell, as for
        causal attention. Small chains, and those on which that stalls, such as permutations, go to all eigenvalues in
        float64, one chain after the other; not above 8192 tokens, nor above 1024 without a stored matrix. Teleport
        scales lambda2 by alpha exactly, but not if `outgoing` comes after it. Not differentiable.

        Parameters
        ----------
        tol : float
            Relative error to accept. Below 1e-5 a float32 chain is bounced in float64, a few rows at a time.
        return_info : bool
            Whether to return a `Lambda2Info` too; bounces once more, and takes all eigenvalues twice.

        Returns
        -------
        lambda2 : Tensor
            In [0, 1], of the batch shape, in the chain's dtype; 0 for a single token.
        info : Lambda2Info
            Estimated error, whether it meets the tolerance, and whether lambda2 is ill-posed.

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
            return spectrum.lambda2(self._operator, tol).to(self.dtype)
        value, info = spectrum.lambda2_with_info(self._operator, tol)
        return value.to(self.dtype), info

    def spectrum(self, k: SupportsIndex, tol: float = 1e-4) -> Tensor:
        """Return the k eigenvalues of largest modulus, found as `lambda2` is.

        Parameters
        ----------
        k : int
            How many, 1 to n.
        tol : float
            Relative error to accept, or absolute, of 1e-6, of eigenvalues near zero.

        Returns
        -------
        Tensor
            (..., k), complex64 or complex128 as the chain's dtype: first the 1 that every chain has, then by falling
            modulus, the two of a conjugate pair side by side. The last may be the first of a pair.

        Raises
        ------
        ChainError
            If k is not between 1 and n, or tol not above zero.

        Examples
        --------
        >>> chain.spectrum(3)
        tensor([ 1.0000+0.0000j, -0.2250+0.5356j, -0.2250-0.5356j])
        """
        k, tol = validation.eigenvalue_count(k, self.n), validation.tolerance(tol)
        return spectrum.spectrum(self._operator, k, tol).to(self.dtype.to_complex())

    @overload
    def metastable_sets(
        self,
        k: SupportsIndex | Literal["gap"],
        weights: Tensor | None = ...,
        k_max: SupportsIndex = ...,
        return_info: Literal[False] = ...,
    ) -> Tensor: ...
    @overload
    def metastable_sets(
        self,
        k: SupportsIndex | Literal["gap"],
        weights: Tensor | None = ...,
        k_max: SupportsIndex = ...,
        *,
        return_info: Literal[True],
    ) -> tuple[Tensor, MetastableInfo]: ...
    def metastable_sets(
        self,
        k: SupportsIndex | Literal["gap"],
        weights: Tensor | None = None,
        k_max: SupportsIndex = 10,
        return_info: bool = False,
    ) -> Tensor | tuple[Tensor, MetastableInfo]:
        """Return fuzzy sets of tokens in which the chain lingers: GPCCA (Reuter et al. 2018), for any chain.

        The memberships are the crispest that the right invariant subspace of the k leading eigenvalues (by modulus)
        holds, found by linear programming over the subspace, where the usual search ends in local maxima. Sets that
        the chain visits in turn have eigenvalues of modulus near one, too, and are found as well. Where eigenvalue
        k + 1 is as large as k, the subspace, and so the sets, are one choice of many.

        Parameters
        ----------
        k : int or "gap"
            Number of sets. "gap" picks the one k from 2 to k_max with the largest gap between the moduli of eigenvalue
            k and k + 1, in the mean over the batch, that splits no conjugate pair. Time grows steeply beyond 10 sets.
        weights : Tensor, optional
            How much each token counts when crispness is measured: a distribution, (n,) or (..., n) within the batch
            dimensions, above zero everywhere. Uniform by default, which suits every chain; the stationary vector is
            ``chain.tokenrank()``.
        k_max : int
            Largest k that "gap" may pick.
        return_info : bool
            Whether to return a `MetastableInfo` too.

        Returns
        -------
        memberships : Tensor
            (..., n, k), not negative, each token's summing to one, in the chain's dtype; heavy sets first. Not
            differentiable.
        info : MetastableInfo
            Crispness, the coarse chain over the sets, the leading eigenvalues, and the residual.

        Raises
        ------
        ChainError
            If k is out of range or would split a conjugate pair of eigenvalues, or the weights are no distribution
            over the tokens or zero somewhere.

        Examples
        --------
        >>> pairs = AttentionChain(torch.tensor([
        ...     [0.5, 0.5, 0.0, 0.0, 0.0],
        ...     [0.4, 0.5, 0.1, 0.0, 0.0],
        ...     [0.0, 0.1, 0.3, 0.3, 0.3],
        ...     [0.0, 0.0, 0.3, 0.3, 0.4],
        ...     [0.0, 0.0, 0.4, 0.3, 0.3]]))
        >>> pairs.metastable_sets("gap").argmax(-1)
        tensor([1, 1, 0, 0, 0])
        """
        if isinstance(k, str) and k == "gap":
            k = metastable.gap_size(self._operator, validation.most_sets(k_max))
        k = validation.set_count(k, self.n)
        uniform = states.uniform(self._operator)
        weights = uniform if weights is None else validation.token_weights(weights, self._operator)
        memberships, *found = metastable.metastable_sets(self._operator, k, weights)
        if not return_info:
            return memberships.to(self.dtype)
        return memberships.to(self.dtype), metastable.measure(self._operator, memberships, weights, *found)
