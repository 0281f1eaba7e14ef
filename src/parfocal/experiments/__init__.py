"""The experiments of van Leeuwen et al. (TMLR 2025), and reports of their records."""
