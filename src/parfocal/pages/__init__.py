"""Pages that stand alone: one style, charts that answer, one foot."""
