"""Which gamma and alpha: many small trainings of many objectives, compared with intervals."""
