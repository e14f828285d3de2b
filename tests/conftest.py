"""What all tests share."""

from hypothesis import HealthCheck, settings

# How long examples take to be drawn says how busy the machine is, not what is right.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
