"""What run.py does from the command line to the table, on a tiny model."""

from __future__ import annotations

import csv

from attention_chains.records import read_run


def test_a_sweep_of_shards_ends_in_the_whole_table(command, small, tmp_path):
    status, shown, said = command("-m", *small, "shard.index=0,1", "shard.count=2")
    assert status == 0, said
    assert "3 of 5 samples so far" in shown and shown.count("outgoing") >= 1
    (run,) = (tmp_path / "results" / "runs").iterdir()
    assert [record["index"] for record in read_run(run)] == list(range(5))


def test_an_experiment_writes_its_table_and_its_picture(command, small, tmp_path):
    status, shown, said = command(*small, "experiment=table7")
    assert status == 0, said
    folder = tmp_path / "results" / "table7" / "mini"
    assert {"table.md", "table.csv", "figure.png"} <= {path.name for path in folder.iterdir()}
    with (folder / "table.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert cells and all(cell["measured"] and cell["n"] == "5" for cell in cells)
    assert str(folder.relative_to(tmp_path) / "table.md") in shown.replace("\n", "")
