"""What an operator needs: health, logs, metrics, limits a visitor, and what strangers are shown."""

from core.ui.operation.door import FrontDoor
from core.ui.operation.health import Health
from core.ui.operation.metrics import Metrics
from core.ui.operation.preview_picture import preview_route
from core.ui.operation.strangers import LinkPreview, robots_route

__all__ = ["FrontDoor", "Health", "LinkPreview", "Metrics", "preview_route", "robots_route"]
