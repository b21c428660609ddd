"""Token reduction: the baselines that F3-Pruning compares itself with (arXiv 2312.03459, tables 1 and 2)."""
