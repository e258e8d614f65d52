"""The rehearsal: the whole procedure on a CT with simulated devices and a simulated surgeon."""
