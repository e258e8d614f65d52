"""Engine of the 3D Slicer extension for image-guided percutaneous sacroplasty.

Research software, not a medical device. Coordinates are RAS in millimetres; an image or mesh file, which is LPS,
is converted where it is read and written. Nothing heavy is imported here: `import sacroplasty` costs a few
milliseconds.
"""

__version__ = "0.1.0"

RESEARCH_NOTICE = "Research software, not a medical device. Not for clinical use."
