"""MACE (Batatia et al., NeurIPS 2022) with a bounded processor time, on training and test frames of an .npz file.

    python peer_mace.py INPUT.npz OUTPUT.npz [PROCESSOR_SECONDS]

Runs in an environment of its own.  Input (angstrom, kcal/mol): ``numbers``, ``train_positions``, ``train_energies``,
``train_forces``, ``test_positions``.  A small model: two layers, 32 scalar and 32 vector channels, l <= 2 on the edges,
correlation order 3, cutoff 5 angstrom (every pair of atoms of a small molecule).  AMSGrad, batches of 5, the learning
rate falls from 0.01 by a cosine over the processor time; moving average of the weights; forces weigh most, energies
more in the last quarter.  Output: ``energies``, ``forces`` of the test frames, and ``facts`` (JSON).
"""

from __future__ import annotations

import json
import math
import os
import sys
import time

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import mace
import numpy as np
import torch
from e3nn import o3
from mace import data, modules, tools
from mace.tools.torch_geometric import Batch
from torch_ema import ExponentialMovingAverage

CUTOFF = 5.0
BATCH = 5
FIRST_RATE, LAST_RATE = 0.01, 1e-5
ENERGY_WEIGHTS, FORCE_WEIGHT, ENERGY_PHASE = (1.0, 100.0), 100.0, 0.75
KCAL_MOL_PER_EV = 23.060547830619


def graphs(numbers: np.ndarray, positions: np.ndarray, table: tools.AtomicNumberTable) -> list[data.AtomicData]:
    made = []
    for x in positions:
        configuration = data.Configuration(atomic_numbers=numbers, positions=x, properties={}, property_weights={})
        made.append(data.AtomicData.from_config(configuration, z_table=table, cutoff=CUTOFF))
    return made


def network(table: tools.AtomicNumberTable, neighbours: float, scale: float) -> torch.nn.Module:
    return modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=2,
        num_elements=len(table),
        hidden_irreps=o3.Irreps("32x0e + 32x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(table)),
        avg_num_neighbors=neighbours,
        atomic_numbers=table.zs,
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=scale,
        atomic_inter_shift=0.0,
    )


def fit(
    model: torch.nn.Module, made: list[data.AtomicData], e: torch.Tensor, f: torch.Tensor, budget: float
) -> tuple[ExponentialMovingAverage, int]:
    """Train until the processor time is over; the moving average of the parameters, and the number of steps."""
    optimiser = torch.optim.Adam(model.parameters(), lr=FIRST_RATE, amsgrad=True)
    average = ExponentialMovingAverage(model.parameters(), decay=0.99)
    rng, n_atoms, steps, order = np.random.default_rng(0), f.shape[1], 0, np.zeros(0, dtype=int)
    begin = time.process_time()
    while (used := (time.process_time() - begin) / budget) < 1.0:
        if len(order) < BATCH:
            order = rng.permutation(len(made))
        chosen, order = order[:BATCH], order[BATCH:]
        for group in optimiser.param_groups:
            group["lr"] = LAST_RATE + 0.5 * (FIRST_RATE - LAST_RATE) * (1.0 + math.cos(math.pi * used))
        found = model(Batch.from_data_list([made[k] for k in chosen]).to_dict(), training=True)
        energy = ((found["energy"] - e[chosen]) / n_atoms).square().mean()
        force = (found["forces"] - f[chosen].reshape(-1, 3)).square().mean()
        loss = ENERGY_WEIGHTS[used > ENERGY_PHASE] * energy + FORCE_WEIGHT * force
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        average.update()
        steps += 1
    return average, steps


def predict(model: torch.nn.Module, made: list[data.AtomicData]) -> tuple[np.ndarray, np.ndarray]:
    """Energies and forces, one geometry at a time as in a simulation."""
    found = [model(Batch.from_data_list([graph]).to_dict(), training=False) for graph in made]
    energies = np.array([out["energy"].detach().item() for out in found])
    return energies, np.array([out["forces"].detach().numpy() for out in found])


def main() -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    source = dict(np.load(sys.argv[1]))
    budget = float(sys.argv[3]) if len(sys.argv) > 3 else 600.0
    numbers = source["numbers"]
    table = tools.AtomicNumberTable(sorted({int(z) for z in numbers}))
    made = graphs(numbers, source["train_positions"], table)
    e = torch.tensor(source["train_energies"] / KCAL_MOL_PER_EV)
    f = torch.tensor(source["train_forces"] / KCAL_MOL_PER_EV)
    centre = e.mean()
    neighbours = float(np.mean([g.edge_index.shape[1] / len(numbers) for g in made]))
    model = network(table, neighbours, float(f.square().mean().sqrt()))
    begin, work = time.perf_counter(), time.process_time()
    average, steps = fit(model, made, e - centre, f, budget)
    facts = {
        "training_wall_time_s": time.perf_counter() - begin,
        "training_processor_time_s": time.process_time() - work,
        "settings": f"{steps * BATCH / len(made):.0f} epochs",
        "steps": steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {"mace-torch": mace.__version__, "torch": torch.__version__},
    }
    tests = graphs(numbers, source["test_positions"], table)
    with average.average_parameters():
        predict(model, tests[:2])
        work = time.process_time()
        energies, forces = predict(model, tests)
        facts["prediction_processor_time_ms"] = 1000.0 * (time.process_time() - work) / len(tests)
    energies = (energies + float(centre)) * KCAL_MOL_PER_EV
    np.savez(sys.argv[2], energies=energies, forces=forces * KCAL_MOL_PER_EV, facts=json.dumps(facts))


if __name__ == "__main__":
    main()
