-- An operator has shut the account: nobody can log in to it. What it has stays.
ALTER TABLE users ADD COLUMN disabled_at TIMESTAMPTZ;
