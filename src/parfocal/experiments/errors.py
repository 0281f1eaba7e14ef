"""Errors of an experiment that its user can fix."""


class ExperimentError(Exception):
    """Its message says what was expected, what was found and what to do."""


class MissingDataError(ExperimentError):
    """Data that aren't there, and the ways to get them."""


class DamagedDataError(ExperimentError):
    """Data that can't be read, or that don't belong together."""


class ChangedDataError(ExperimentError):
    """Data that differ from those of the spec or the record."""


class DamagedRecordError(ExperimentError):
    """A file of a record that can't be read."""


class BusyRunError(ExperimentError):
    """Another process is working on the run."""


class OtherRunError(ExperimentError):
    """A folder that holds a run of another spec."""


class BusySweepError(ExperimentError):
    """Another sweep is working on the folder."""


class DeadWorkerError(ExperimentError):
    """A process that ended silently: killed, out of memory, or its machine went away."""


class UnreadableResultsError(ExperimentError):
    """Published results that aren't as expected, with their file."""
