"""Errors that a person can act on: what is wrong, where, and what to do."""


class SacroplastyError(Exception):
    """Bad input or a state that forbids going on.

    The message is one line in plain words. The command line prints it and exits with 2; a Slicer module shows it
    without a traceback.
    """


class ImageError(SacroplastyError):
    """An image cannot be read, or is not a CT that the procedure can be planned on."""


class AnatomyError(SacroplastyError):
    """The anatomy needed is missing, contradictory or of too low confidence."""


class PlanError(SacroplastyError):
    """A plan cannot be made, or does not belong to this patient."""


class GeometryError(SacroplastyError):
    """A transform or an imaging geometry is impossible: not rigid, left-handed, not finite, ..."""


class CalibrationError(SacroplastyError):
    """A calibration or registration is refused; the message gives the reason."""


class PoorRegistrationError(CalibrationError):
    """The points are in order, but the registration that they give is not good enough to guide by."""


class DeviceError(SacroplastyError):
    """A device cannot be reached, or breaks its protocol."""


class DocumentError(SacroplastyError):
    """A JSON document is not what its schema says, or comes from a newer version."""
