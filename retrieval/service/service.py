"""What every route works with: the settings, the open collections, the lanes that work is queued in, the meters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrieval.service.encoders import Encoders
    from retrieval.service.lanes import Lane
    from retrieval.service.looking import Looking
    from retrieval.service.meters import Meters
    from retrieval.service.search_routes import Answered, Asked
    from retrieval.service.settings import Settings
    from retrieval.service.shelf import Shelf


@dataclass(frozen=True, slots=True)
class Service:
    """One running service. Lanes are started and stopped with the app (`app.create_app`)."""

    settings: Settings
    shelf: Shelf
    meters: Meters
    searching: Lane[Asked, Answered]  # in batches
    looking: Looking  # predictions, and words for them, a lane each
    encoders: Encoders  # embed, in a lane of its own
