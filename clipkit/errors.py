"""The exceptions for what a user can mend. The command line prints each as one line and exits with 1."""


class ClipkitError(Exception):
    """Base of every expected failure: its text is one line with what was expected, found, and to do."""

    exit_code = 1


class SourceError(ClipkitError):
    """A list of URLs or a table of captions that cannot be read as one."""


class NetworkError(ClipkitError):
    """A name resolver, a network or a proxy that does not work."""


class EngineError(ClipkitError):
    """A cluster or a tool that the work was to run on, and that is missing, unfit or gone."""


class DatasetError(ClipkitError):
    """A dataset directory or shard that is missing, damaged, in use, or of another kind."""


class StorageError(ClipkitError):
    """An object store that is not there, refuses, or fails again and again."""


class ConfigError(ClipkitError):
    """Settings that do not fit each other or what they are applied to."""


class CheckpointError(ClipkitError):
    """A model file that is missing, damaged, hostile, or of another model."""


class TrainError(ClipkitError):
    """A training run that cannot start or go on."""


class EvaluationError(ClipkitError):
    """Pictures, class lists or results that an evaluation cannot use."""
