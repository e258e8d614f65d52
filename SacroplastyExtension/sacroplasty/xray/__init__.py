"""C-arm geometry, projection of CT and tools, named views, overlays."""
