"""The Markov-chain core: attention matrices in, states, rankings and spectra out. Depends on torch alone."""

from attention_chains.chain.attention_chain import AttentionChain
from attention_chains.chain.errors import ChainError
from attention_chains.chain.metastable import MetastableInfo
from attention_chains.chain.running_mix import RunningMix
from attention_chains.chain.spectrum import Lambda2Info
from attention_chains.chain.stationary import TokenRankInfo

__all__ = ["AttentionChain", "ChainError", "Lambda2Info", "MetastableInfo", "RunningMix", "TokenRankInfo"]
