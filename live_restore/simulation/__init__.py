"""A physical simulation of fluorescence microscopy: specimen, optics, camera, microscope.

Photons, electrons and counts are kept apart and every parameter has a unit. The simulated
microscope and the training of the default model both draw from here.
"""

from live_restore.simulation.camera import Camera
from live_restore.simulation.microscope import SimulatedMicroscope
from live_restore.simulation.optics import Optics
from live_restore.simulation.specimen import SPECIMEN_KINDS, Specimen

__all__ = ["SPECIMEN_KINDS", "Camera", "Optics", "SimulatedMicroscope", "Specimen"]
