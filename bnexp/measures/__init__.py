"""What is read off a network while it trains: one file per measure.

A measure declares its tables (names, units, meanings) and reads Records off a Reading (after an epoch) or a NextStep
(before an epoch's first step). To add one, write a file beside ``activations.py``, name it in ``MEASURES`` below, and
its options in ``bnexp.spec.MEASURES``.
"""

from bnexp.measures.activations import ACTIVATIONS
from bnexp.measures.base import LastStep, Measure, NextStep, Reading, Record
from bnexp.measures.ics import ICS
from bnexp.measures.identity import IDENTITY
from bnexp.measures.landscape import LANDSCAPE
from bnexp.measures.parameters import PARAMETERS

MEASURES: dict[str, Measure] = {
    measure.name: measure for measure in (ACTIVATIONS, PARAMETERS, ICS, LANDSCAPE, IDENTITY)
}

__all__ = ["MEASURES", "LastStep", "Measure", "NextStep", "Reading", "Record"]
