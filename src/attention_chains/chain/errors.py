"""What the chain core raises."""


class ChainError(ValueError):
    """An input that is no Markov chain, state or setting: one sentence says what, where, and what to do."""
