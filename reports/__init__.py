"""What we tell the admin. Reads what models remember; never talks to a mail server."""
