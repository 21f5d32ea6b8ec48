"""Is a force field stable and right?  Long runs at several temperatures, assessed by labels of what they visited."""

from fflux_py.certification.certificate import Certificate, certify
from fflux_py.certification.config import CertificationConfig, Execution, Limits
from fflux_py.certification.labellers import GFN2Labeller, KohnShamLabeller, Labeller, labeller_of

__all__ = [
    "Certificate",
    "CertificationConfig",
    "Execution",
    "GFN2Labeller",
    "KohnShamLabeller",
    "Labeller",
    "Limits",
    "certify",
    "labeller_of",
]
