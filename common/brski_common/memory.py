"""What a service does about its memory once it runs.

Loading a service makes some 200 000 objects that live as long as it does. Python's cycle collector would look at all of
them again and again: that was a fifth of the MASA's processor time, a tenth of the registrar's.
"""

import gc
from typing import Final

# New objects that outlive their makers before the collector looks for cycles among them. Nothing of a request is a
# cycle unless it fails, so that few are ever found.
YOUNG_OBJECTS: Final = 10_000
YOUNG_ROUNDS: Final = 10
MIDDLE_ROUNDS: Final = 10


def settle() -> None:
    """Take what is there now out of the collector's sight. To be called by a program, once it is ready to serve."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_ROUNDS, MIDDLE_ROUNDS)
