"""A desk on which Slicer module files are opened without Slicer: real MRML and real Qt, stand-ins for the rest."""
