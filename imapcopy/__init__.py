"""How one mailbox is copied and verified. No Prefect, no environment, no HTML."""
