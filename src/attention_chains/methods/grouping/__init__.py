"""How DiffSeg turns an attention tensor into segments: anchors, iterative merging, refinement, one label a pixel."""

from attention_chains.methods.grouping.divergence import symmetric_kl
from attention_chains.methods.grouping.labels import label_map
from attention_chains.methods.grouping.merging import Merging, merged
from attention_chains.methods.grouping.refinement import refined
from attention_chains.methods.grouping.suppression import spaced

__all__ = ["Merging", "label_map", "merged", "refined", "spaced", "symmetric_kl"]
