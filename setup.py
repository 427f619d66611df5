"""The packages of the wheel, among them the recipes, which lie at the top of the checkout."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["rivegs_mllm*", "data_builders*", "eval*"]), "rivegs_mllm.recipes"],
    package_dir={"rivegs_mllm.recipes": "recipes"},
)
