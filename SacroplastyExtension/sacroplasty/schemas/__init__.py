"""JSON Schemas of the documents that the engine writes and reads."""
