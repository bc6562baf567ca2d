"""What is read off a network while it trains: one file per measure.

A measure declares its tables (names, units, meanings) and is a function from a Reading to Records. To add one, write a
file beside ``activations.py`` and name it in ``MEASURES`` below and in ``bnexp.spec.MEASURES``.
"""

from bnexp.measures.activations import ACTIVATIONS
from bnexp.measures.base import Measure, Reading, Record
from bnexp.measures.parameters import PARAMETERS

MEASURES: dict[str, Measure] = {measure.name: measure for measure in (ACTIVATIONS, PARAMETERS)}

__all__ = ["MEASURES", "Measure", "Reading", "Record"]
