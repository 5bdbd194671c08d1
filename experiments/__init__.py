"""Experiment files: an agent, an environment, a budget, tuned settings, and the claim with its recorded evidence."""

if __name__ != "rlab.experiments":
    raise ImportError(f"import rlab.experiments, not {__name__}: other packages may own that name")
