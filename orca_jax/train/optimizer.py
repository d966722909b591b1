"""The update: Muon for the matrices inside the layers, AdamW for the embedding and the norms."""

import optax
from optax.contrib import MuonDimensionNumbers, muon

from orca_jax.train.config import OptimizerConfig
from orca_jax.train.model import Parameters

# Which axes of our fused weights are one matrix's input and output; the others count matrices (heads, gate and up).
MATRICES = {
    "attention.qkv.weight": MuonDimensionNumbers(reduction_axis=3, output_axis=2),
    "attention.out.weight": MuonDimensionNumbers(reduction_axis=1, output_axis=0),
    "mlp.up.weight": MuonDimensionNumbers(reduction_axis=2, output_axis=1),
    "mlp.down.weight": MuonDimensionNumbers(reduction_axis=1, output_axis=0),
}


def matrices(parameters: Parameters) -> dict[str, MuonDimensionNumbers | None]:
    """Muon's view of each parameter; None leaves it to AdamW."""
    return {name: MATRICES.get(name.split(".", 2)[-1]) if name.startswith("layers.") else None for name in parameters}


def optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Updates at the peak learning rate; the loop multiplies them by the schedule's height."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        muon(
            config.matrix_learning_rate,
            weight_decay=config.weight_decay,
            adam_learning_rate=config.learning_rate,
            adam_b2=config.adam_b2,
            muon_weight_dimension_numbers=matrices,
        ),
    )
