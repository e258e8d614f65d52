"""Cement: age and viscosity, pressure, spread, the monitor that sees it, and the interlock that stops the pump."""
