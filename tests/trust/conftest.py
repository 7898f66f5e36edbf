"""How many examples the properties try: `ci` (few, the same every time) or, by `SIGHTLINE_PROPERTIES=trust`, many.

`mutants` is `ci` for `mutate.py`, which asks whether a test fails and not on how small an example.
"""

import os

from hypothesis import HealthCheck, Phase, settings

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile("ci", max_examples=15, derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile("trust", max_examples=500, deadline=None, database=None, print_blob=True)
settings.register_profile("mutants", settings.get_profile("ci"), max_examples=25, phases=[Phase.generate])
for name in ("ci", "trust", "mutants"):
    settings.register_profile(name, settings.get_profile(name), suppress_health_check=SLOW)
settings.load_profile(os.environ.get("SIGHTLINE_PROPERTIES", "ci"))
