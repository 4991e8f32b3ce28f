"""What is wrong with sample data, by itself and in the eyes of the network that is to be calibrated with it."""

from __future__ import annotations

from edgeport.examination.examine import BUILD, DOCTOR, Effort, Examination, examine
from edgeport.examination.finding import Finding, Kind

__all__ = ["BUILD", "DOCTOR", "Effort", "Examination", "Finding", "Kind", "examine"]
