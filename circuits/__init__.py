"""Knowledge circuits: attribution graphs, faithfulness, diffs."""
