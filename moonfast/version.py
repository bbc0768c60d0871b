"""What the server calls itself.

Front ends compare `moonraker_version` with the versions they need, so it has to read as one of Moonraker's; the number
of commits behind the tag is without meaning here.
"""

from __future__ import annotations

from moonfast import __version__

API_VERSION = (1, 5, 0)
MOONFAST_VERSION = __version__
MOONRAKER_VERSION = f"v0.11.0-0-moonfast{__version__}"
