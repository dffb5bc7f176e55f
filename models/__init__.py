"""What we remember: roster, members, waves, the ledger, the vault. Imports nothing else of ours."""
