"""Active learning: label what a force field visited and train again, until it is right or the budget is spent."""

from fflux_py.active_learning.config import ImprovementConfig
from fflux_py.active_learning.improvement import Improvement, improve
from fflux_py.active_learning.rounds import Round

__all__ = ["Improvement", "ImprovementConfig", "Round", "improve"]
