"""The names of what is measured of a run, known without torch."""

MEASURED = {
    "acc_corr": "affected domain, unseen: accuracy (acc_corr)",
    "acc_corr_nontarget": "  the same without the target class",
    "asr": "  attack success rate",
    "acc_retain": "unaffected domain, unseen: accuracy (acc_retain)",
    "acc_manipulated": "manipulated training samples S_m, true labels",
    "acc_identified": "  the identified ones",
    "acc_unidentified": "  the others",
    "val_acc": "validation accuracy",
    "val_acc_matched": "  in the class mix of S_f",
    "fit_identified": "agreement with the given labels on S_f",
    "fit_retain": "agreement with the given labels on retain",
    "changed": "fraction of S_f with another prediction",
    "selection_score": "selection score",
}
"""Of a `metrics.json`: fractions, and what they are called on the screen."""

OF_DISCOVERY = {
    "false_positives": "clean samples in S_f",
    "discovery_precision": "fraction of S_f that is manipulated",
    "discovery_recall": "fraction of S_m that is in S_f",
}
COST = ("seconds", "samples_forward", "samples_backward")
CURVES = ("train_loss", "forget_loss", "retain_loss", "learning_rate")
"""Logged while a stage trains."""
