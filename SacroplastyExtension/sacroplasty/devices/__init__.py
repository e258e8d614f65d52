"""OpenIGTLink without surprises: wire (bytes), link (connections), roles (tracker, fluoroscope, pump)."""
