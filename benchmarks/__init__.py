"""Each figure of the docs: one script that measures it beside its peer."""
