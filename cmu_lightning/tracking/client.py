"""The end of W&B's client."""

import threading

SECONDS = 10.0


def end_client() -> None:
    """As `wandb.teardown()`, but it does not wait for ever.

    The client waits for its service to end, and that can miss that it should: a request that was given up, as of a
    silent server, is answered to a connection that is closed by then, and the word behind it is not read. A service
    that is left over ends with this process.
    """
    import wandb

    ending = threading.Thread(target=wandb.teardown, daemon=True)
    ending.start()
    ending.join(SECONDS)
