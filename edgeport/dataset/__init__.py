"""Sample data: folders of pictures, `.npz` archives, the user's own callables, and recipes that prepare them."""

from __future__ import annotations

from edgeport.dataset.batch import Batch
from edgeport.dataset.opening import open_dataset
from edgeport.dataset.recipe import Recipe, known_recipes, load_recipe
from edgeport.dataset.view import Dataset, check_overlap

__all__ = ["Batch", "Dataset", "Recipe", "check_overlap", "known_recipes", "load_recipe", "open_dataset"]
