"""The per-sample store of a run: durable, resumable, mergeable.

A run folder holds `identity.json` (what the run is), one `shard-<index>-of-<count>.jsonl` per shard (a header line with
the digest of the identity, then one line per finished sample) and one `.lock` beside each. Shards computed elsewhere
are merged by copying their files into one folder: every shard says which run it belongs to.
"""

from attention_chains.records.errors import RecordError
from attention_chains.records.identity import RunIdentity, read_identity, run_folder
from attention_chains.records.merge import read_run
from attention_chains.records.shard import WHOLE_RUN, Shard
from attention_chains.records.store import ShardStore, open_shard

__all__ = [
    "WHOLE_RUN",
    "RecordError",
    "RunIdentity",
    "Shard",
    "ShardStore",
    "open_shard",
    "read_identity",
    "read_run",
    "run_folder",
]
