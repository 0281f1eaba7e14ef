"""What can go wrong with an experiment that whoever started it can mend."""


class ExperimentError(Exception):
    """Its message says what was expected, what was found and what to do."""


class MissingDataError(ExperimentError):
    """Data that aren't there, and the ways to get them."""


class DamagedDataError(ExperimentError):
    """Data that are there and can't be read, or that don't belong together."""


class ChangedDataError(ExperimentError):
    """Data that aren't those that the spec or the record was made with."""


class DamagedRecordError(ExperimentError):
    """A file of a record that can't be read."""


class BusyRunError(ExperimentError):
    """Another process works on the run."""


class OtherRunError(ExperimentError):
    """A folder that holds a run of another spec."""


class BusySweepError(ExperimentError):
    """Another sweep works on the folder."""


class DeadWorkerError(ExperimentError):
    """A process that ended without a word: killed, out of memory, or its machine went away."""


class UnreadableResultsError(ExperimentError):
    """Published results that aren't as expected, with their file."""
