"""What W&B's own sweeps engine makes of the shipped sweep files and of others, for tests to compare with.

The engine needs numpy<2, so it cannot be installed beside this project's versions. This script is run by an
environment that has it, and its output, which names the engine's version, is committed:

    pip install sweeps==0.3.0 && python tests/sweeps_engine.py > tests/sweeps_engine.json
"""

import hashlib
import json
import random
import sys
from importlib.metadata import version
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
KEPT = 5

RANDOM = {
    "values": {"a": {"values": [1, 2, 3, 4, 5]}, "b": {"value": 7}, "c": {"values": ["x", "y"]}},
    "weighted": {"a": {"values": ["x", "y", "z"], "probabilities": [0.1, 0.6, 0.3]}},
    "int_uniform": {"a": {"min": 3, "max": 11}},
    "uniform": {"a": {"min": 0.5, "max": 2.0}, "b": {"min": 1, "max": 2, "distribution": "uniform"}},
    "q_uniform": {"a": {"min": 0.0, "max": 2.0, "q": 0.1, "distribution": "q_uniform"}},
    "q_uniform of integers": {"a": {"min": 0, "max": 100, "q": 5, "distribution": "q_uniform"}},
    "log_uniform": {"a": {"min": -5, "max": 2, "distribution": "log_uniform"}},
    "log_uniform_values": {"a": {"min": 1e-5, "max": 2, "distribution": "log_uniform_values"}},
    "inv_log_uniform": {"a": {"min": -5, "max": 2, "distribution": "inv_log_uniform"}},
    "inv_log_uniform_values": {"a": {"min": 1e-5, "max": 2, "distribution": "inv_log_uniform_values"}},
    "q_log_uniform": {"a": {"min": 1, "max": 4, "q": 0.5, "distribution": "q_log_uniform"}},
    "q_log_uniform_values": {"a": {"min": 1, "max": 400, "distribution": "q_log_uniform_values"}},
    "normal": {"a": {"distribution": "normal"}, "b": {"distribution": "normal", "mu": 3, "sigma": 0.5}},
    "q_normal": {"a": {"distribution": "q_normal", "mu": 3, "sigma": 5, "q": 0.25}},
    "log_normal": {"a": {"distribution": "log_normal", "mu": 1, "sigma": 0.5}},
    "q_log_normal": {"a": {"distribution": "q_log_normal", "mu": 1, "sigma": 0.5, "q": 0.1}},
    "beta": {"a": {"distribution": "beta", "a": 2, "b": 5}},
    "q_beta": {"a": {"distribution": "q_beta", "a": 2, "b": 5, "q": 0.05}},
    "nested": {"b": {"value": 1}, "a": {"parameters": {"y": {"min": 0.0, "max": 1.0}, "x": {"values": [1, 2]}}}},
}
GRIDS = {
    "names are sorted": {"b": {"values": [2, 1]}, "a": {"values": ["y", "x"]}, "B": {"values": [0.1, 0.2]}},
    "each value once": {"a": {"values": [1, 2, 1]}, "b": {"values": [True, False]}},
    "integers": {"a": {"min": 1, "max": 4}, "b": {"value": "c"}},
    "steps": {"a": {"min": 0.0, "max": 1.0, "q": 0.25, "distribution": "q_uniform"}},
    "nested": {"m": {"parameters": {"z": {"values": [1, 2]}, "k": {"parameters": {"i": {"values": [3, 4]}}}}}},
    "lists and nothing": {"a": {"values": [[1, 2], None, {"x": 1}]}},
}


def digest(points: list[dict]) -> str:
    """Of points in their order."""
    return hashlib.sha256("\n".join(json.dumps(point, sort_keys=True) for point in points).encode()).hexdigest()


def plain(value):
    """numpy's numbers as Python's."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return value.item() if hasattr(value, "item") else value


def engine(method: str, parameters: dict, count: int) -> list[dict]:
    """The points that the engine proposes, one call for all."""
    import sweeps

    runs = sweeps.next_runs({"method": method, "parameters": parameters}, [], n=count)
    return [{name: plain(inner["value"]) for name, inner in run.config.items()} for run in runs if run is not None]


def main() -> None:
    grids = {}
    for path in sorted((ROOT / "sweeps").rglob("*.yaml")):
        parameters = yaml.safe_load(path.read_text())["parameters"]
        points = engine("grid", parameters, 200_000)
        step = max(1, len(points) // KEPT)
        grids[str(path.relative_to(ROOT))] = {
            "parameters": parameters,
            "count": len(points),
            "digest": digest(points),
            "points": {at: points[at] for at in [*range(0, len(points), step), len(points) - 1]},
        }
    drawn = []
    for name, parameters in RANDOM.items():
        random.seed(0)
        drawn.append({"name": name, "parameters": parameters, "points": engine("random", parameters, 20)})
    others = [
        {"name": name, "parameters": parameters, "points": engine("grid", parameters, 1000)}
        for name, parameters in GRIDS.items()
    ]
    made = {"made by": f"sweeps {version('sweeps')}", "grids": grids, "random": drawn, "other grids": others}
    json.dump(made, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
