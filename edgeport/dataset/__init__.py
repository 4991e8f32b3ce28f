"""Sample data: folders of pictures, `.npz` archives, the user's own callables, and recipes that prepare them."""

from __future__ import annotations

from edgeport.dataset.batch import Batch
from edgeport.dataset.classes import Classes, choose_classes, classes_spoken_of, of_classes
from edgeport.dataset.opening import open_dataset
from edgeport.dataset.recipe import Recipe, known_recipes, load_recipe
from edgeport.dataset.view import Dataset, check_overlap

__all__ = [
    "Batch",
    "Classes",
    "Dataset",
    "Recipe",
    "check_overlap",
    "choose_classes",
    "classes_spoken_of",
    "known_recipes",
    "load_recipe",
    "of_classes",
    "open_dataset",
]
