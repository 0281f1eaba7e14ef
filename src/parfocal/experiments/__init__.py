"""The experiments of van Leeuwen et al. (TMLR 2025), and what is made of their records."""
