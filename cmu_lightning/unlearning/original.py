"""The model that is to be repaired."""

from cmu_lightning.unlearning.stage import Stage


class Original(Stage):
    """M_o: trained with procedure A on all of S_tr."""
