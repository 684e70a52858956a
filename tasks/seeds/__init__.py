"""Problem sources, one file (or package) each; `registry` discovers them."""
