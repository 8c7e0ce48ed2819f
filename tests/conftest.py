"""What holds for all tests."""

from hypothesis import settings

# A machine that runs other work too is no reason to fail; pytest-timeout ends what hangs.
settings.register_profile("ttc", deadline=None)
settings.load_profile("ttc")
