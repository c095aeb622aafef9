"""The tables of arXiv 2408.05215 as data, their runs, and our results beside the published ones."""
