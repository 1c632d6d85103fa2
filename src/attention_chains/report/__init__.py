"""Tables, intervals and pictures from finished runs: statistics in, files under results/ out."""
