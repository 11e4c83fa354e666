"""Build the report: collect the results of runs and audits as JSON, draw figures, set a PDF.

    python -m fer_lib.report                                           # build report/report.pdf
    python -m fer_lib.report --collect --dataset fer2013 --preset full # collect anew, then build

Collecting reads run folders and `data/<dataset>/` and writes `results/`. Building reads only
`results/`, brings `figures/` up to date with it, and sets both as `report.pdf`, with the same bytes
as long as nothing has changed.
"""
