"""What a table's column means: metrics over data sets, computed from per-image sufficient statistics."""
