"""What is read off a network while it trains: one file per measure.

A measure declares its tables (names, units, meanings) and reads Records off a Reading (after an epoch) or a NextStep
(before an epoch's first step). To add one, write a file beside ``activations.py``, name it in ``MEASURES`` below, and
its options in ``bnexp.spec.MEASURES``.
"""

from bnexp.measures.activations import ACTIVATIONS
from bnexp.measures.base import LastStep, Measure, NextStep, Reading, Record
from bnexp.measures.gradients import GRADIENTS
from bnexp.measures.ics import ICS
from bnexp.measures.identity import IDENTITY
from bnexp.measures.landscape import LANDSCAPE
from bnexp.measures.parameters import PARAMETERS
from bnexp.measures.predictions import PREDICTIONS
from bnexp.measures.rank import RANK
from bnexp.measures.shift import SHIFT

_ALL = (ACTIVATIONS, PARAMETERS, SHIFT, ICS, LANDSCAPE, IDENTITY, RANK, GRADIENTS, PREDICTIONS)
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}

__all__ = ["MEASURES", "LastStep", "Measure", "NextStep", "Reading", "Record"]
