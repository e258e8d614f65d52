"""Engine objects as MRML nodes, and a headless Slicer. The only package that imports slicer."""
