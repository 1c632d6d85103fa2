"""Data sets and their readers: objects with `len`, `[i] -> Sample`, `ids` and a `fingerprint` of their content."""
