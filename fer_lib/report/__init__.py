"""The report: what runs and audits found, collected as JSON, drawn, and set as a PDF.

    python -m fer_lib.report                                           # build report/report.pdf
    python -m fer_lib.report --collect --dataset fer2013 --preset full # collect anew, then build

Collecting reads run folders and `data/<dataset>/` and writes `results/`. Building reads `results/`
alone, brings `figures/` up to date with it, and sets both as `report.pdf`: the same bytes as long
as nothing has changed.
"""
