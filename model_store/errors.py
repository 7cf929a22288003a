"""The errors that users see: each message names what was wrong, the value, and what was expected.

::

    HatstandError
    ├── InvalidInput            the caller's arguments or data are wrong
    └── ArtifactError           something in the model store
        ├── ArtifactNotFound        it is not there
        ├── ArtifactCorrupt         its files do not match their checksums
        └── ArtifactIncompatible    it is whole, but does not fit (other weights, newer schema)
"""


class HatstandError(Exception):
    """Base of every error that is shown to a user as one line, without a traceback."""


class InvalidInput(HatstandError):
    """The caller's arguments or data are wrong."""


class ArtifactError(HatstandError):
    """Something in the model store cannot be used."""


class ArtifactNotFound(ArtifactError):
    """The named artifact is not in the store."""


class ArtifactCorrupt(ArtifactError):
    """A file of the artifact is missing, truncated or altered."""


class ArtifactIncompatible(ArtifactError):
    """The artifact is whole but does not fit: other weights, another kind, a newer schema."""
