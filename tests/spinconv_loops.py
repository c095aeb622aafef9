"""SpinConv written a second time, as loops over single edges, atoms, cells and shifts.

It follows the equations of the model one by one in double precision with NumPy, shares no line with
the package and reads the parameters from the state of a model. It is slow and meant to be read.
"""

from __future__ import annotations

import math

import numpy as np

State = dict[str, np.ndarray]

POLE_FRAMES = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 1, 0], [-1, 0, 0], [0, 0, 1]],
        [[0, 0, 1], [0, 1, 0], [-1, 0, 0]],
    ],
    dtype=float,
)


def act(x: np.ndarray) -> np.ndarray:
    """Return x sigmoid(x)."""
    return x / (1 + np.exp(-x))


def dense(state: State, name: str, x: np.ndarray) -> np.ndarray:
    """Return W x + b."""
    return state[f"{name}.weight"] @ x + state[f"{name}.bias"]


def mixture(state: State, name: str, x: np.ndarray, first: int, second: int) -> np.ndarray:
    """Return the mixture over eight experts for one item and one pair of elements."""
    rows = [
        state[f"{name}.first_embedding.weight"][first],
        state[f"{name}.second_embedding.weight"][second],
    ]
    scores = np.exp(dense(state, f"{name}.gate", np.concatenate(rows)))
    gate = scores / scores.sum()
    hidden = act(dense(state, f"{name}.experts", act(dense(state, f"{name}.inward", x))))
    width = len(hidden) // 8
    mixed = sum(gate[b] * hidden[b * width : (b + 1) * width] for b in range(8))
    return dense(state, f"{name}.outward", mixed)


def spin(state: State, name: str, grid: np.ndarray) -> np.ndarray:
    """Return the features (M,) of one sphere (H, L, O)."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    channels, rows, columns = grid.shape
    groups, width = channels // 8, len(bias)
    per_group, outputs = channels // groups, width // groups
    features = np.zeros(width)
    for m in range(width):
        group = m // outputs
        for r in range(columns):
            total = bias[m]
            for channel in range(per_group):
                for row in range(rows):
                    for c in range(columns):
                        value = grid[group * per_group + channel, row, (c + r) % columns]
                        total += weight[m, channel * rows + row, c] * value
            features[m] += act(total) / columns
    for group in range(groups):
        part = features[group * outputs : (group + 1) * outputs]
        part[:] = (part - part.mean()) / math.sqrt(part.var() + 1e-5)
    return features * state[f"{name}.norm.weight"] + state[f"{name}.norm.bias"]


def frame(x: np.ndarray, surroundings: np.ndarray, lab: float) -> np.ndarray:
    """Return the rows x, y, z of an edge's frame."""
    a = surroundings + lab
    a = a / np.linalg.norm(a)
    z = np.cross(x, a)
    z = z / (np.linalg.norm(z) + 1e-7)
    y = np.cross(x, z)
    y = y / (np.linalg.norm(y) + 1e-7)
    return np.array([x, y, z])


def coordinates(
    axes: np.ndarray, direction: np.ndarray, rows: int, columns: int
) -> tuple[float, float]:
    """Return the column and row coordinates of a direction in a frame.

    The arcsine loses half of the digits near 1, where that of the other leg is used.
    """
    q = axes @ direction
    longitude = 0.0 if q[1] ** 2 + q[2] ** 2 < 1e-10 else math.atan2(q[1], q[2])
    if abs(q[0]) < 0.7:
        latitude = math.asin(q[0])
    else:
        off_axis = np.linalg.norm(np.cross(axes[0], direction))
        latitude = math.copysign(math.pi / 2 - math.asin(off_axis), q[0])
    column = columns * (longitude + math.pi) / (2 * math.pi)
    return column, (rows - 1) * (0.99 * (latitude / math.pi + 0.5) + 0.005)


def splat(grid: np.ndarray, axes: np.ndarray, direction: np.ndarray, value: np.ndarray) -> None:
    """Add a value (H,) in a direction, seen in a frame, to a grid (H, L, O)."""
    _, rows, columns = grid.shape
    column, row = coordinates(axes, direction, rows, columns)
    i, j = math.floor(column), math.floor(row)
    f, g = column - i, row - j
    grid[:, j, i % columns] += (1 - f) * (1 - g) * value
    grid[:, j, (i + 1) % columns] += f * (1 - g) * value
    grid[:, j + 1, i % columns] += (1 - f) * g * value
    grid[:, j + 1, (i + 1) % columns] += f * g * value


def distance_features(
    state: State, options: dict, distance: float, source: int, target: int
) -> np.ndarray:
    """Return x_dist (M,) of one edge between two elements."""
    functions, cutoff = options["num_basis_functions"], options["cutoff"]
    if options.get("scale_distances", True):
        row = source * options["max_num_elements"] + target
        p = state["distance_layer.scale_embedding.weight"][row, 0]
        b = state["distance_layer.offset_embedding.weight"][row, 0]
        bound = options.get("distance_block_scalar_max", 2.0)
        distance = distance * bound ** (2 / (1 + math.exp(-p)) - 1) + b
    centres = np.arange(functions) * cutoff / (functions - 1)
    sigma = options["basis_width_scalar"] * cutoff / (functions - 1)
    basis = np.exp(-((distance - centres) ** 2) / (2 * sigma**2))
    return dense(state, "distance_layer.dense", basis)


def frames_of_edges(
    direction: list, distance: list, vectors: np.ndarray, target: np.ndarray, cutoff: float
) -> list[np.ndarray]:
    """Return the frame of every edge from the vectors that end at its target."""
    surroundings = np.zeros((max(target, default=0) + 1, 3))
    for e in range(len(vectors)):
        weight = 0.5 * (1 + math.cos(math.pi * distance[e] / cutoff))
        surroundings[target[e]] += weight * vectors[e]
    return [frame(direction[e], surroundings[target[e]], 1e-4) for e in range(len(vectors))]


def messages(
    state: State, options: dict, elements: np.ndarray, edge_index: np.ndarray, vectors: np.ndarray
) -> list[np.ndarray]:
    """Return the message (H,) of every edge after all interactions."""
    shape = (options["hidden_channels"], options["sphere_size_lat"], options["sphere_size_long"])
    source, target = edge_index
    edges = range(len(source))
    distance = [np.linalg.norm(v) for v in vectors]
    direction = [vectors[e] / distance[e] for e in edges]
    frames = frames_of_edges(direction, distance, vectors, target, options["cutoff"])

    pair = [(elements[source[e]], elements[target[e]]) for e in edges]
    x_dist = [distance_features(state, options, distance[e], *pair[e]) for e in edges]
    x = []
    for e in edges:
        hidden = act(dense(state, "message_dense.0", x_dist[e]))
        hidden = act(dense(state, "message_dense.1", hidden))
        x.append(mixture(state, "message_mixture", hidden, *pair[e]))

    for number in range(options["num_interactions"]):
        name, updates = f"interactions.{number}", []
        for e in edges:
            grid = np.zeros(shape)
            for m in np.flatnonzero(target == source[e]):
                splat(grid, frames[e], direction[m], x[m])
            hidden = mixture(state, f"{name}.mixture", spin(state, f"{name}.spin", grid), *pair[e])
            inner = act(dense(state, f"{name}.distance.0", x_dist[e]))
            hidden = act(hidden + dense(state, f"{name}.distance.2", inner))
            updates.append(mixture(state, f"{name}.outward", hidden, *pair[e]))
        x = updates if number == 0 else [old + new for old, new in zip(x, updates, strict=True)]
    return x


def force(
    state: State, shape: tuple, element: int, directions: list, x: list, rotations: np.ndarray
) -> np.ndarray:
    """Return the force on one atom from the edges that end at it."""
    total = np.zeros(3)
    for rotation in rotations:
        components = []
        for pole_frame in POLE_FRAMES:
            grid = np.zeros(shape)
            for direction, value in zip(directions, x, strict=True):
                splat(grid, pole_frame @ rotation, direction, value)
            hidden = spin(state, "force_head.spin", grid)
            hidden = act(mixture(state, "force_head.mixture", hidden, element, element))
            components.append(mixture(state, "force_head.outward", hidden, element, element)[0])
        total += rotation.T @ np.array(components)
    return total / len(rotations)


def evaluate(
    state: State,
    options: dict,
    atomic_numbers: np.ndarray,
    edge_index: np.ndarray,
    vectors: np.ndarray,
    rotations: np.ndarray,
) -> tuple[float, np.ndarray]:
    """Return energy and forces (N, 3) of one structure with given edges and rotations."""
    shape = (options["hidden_channels"], options["sphere_size_lat"], options["sphere_size_long"])
    x = messages(state, options, atomic_numbers, edge_index, vectors)
    energy, forces = 0.0, np.zeros((len(atomic_numbers), 3))
    for n, element in enumerate(atomic_numbers):
        own = np.flatnonzero(edge_index[1] == n)
        total = sum((x[e] for e in own), np.zeros(shape[0]))
        total = total / (options["max_num_neighbors"] / 2 + 1)
        energy += mixture(state, "energy_mixture", total, element, element)[0]
        if len(own):
            directions = [vectors[e] / np.linalg.norm(vectors[e]) for e in own]
            values = [x[e] for e in own]
            forces[n] = force(state, shape, element, directions, values, rotations[n])
    return energy, forces
