"""What Feast's feature server loads when it starts, by `millrace serve` or `feast serve`."""

from feature_repo.stores.server import load_artifacts

__all__ = ["load_artifacts"]
