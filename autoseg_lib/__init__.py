"""AutoSeg Workbench: train U-Nets on medical images, segment DICOM folders, measure areas and volumes."""

__version__ = "0.1.0"
