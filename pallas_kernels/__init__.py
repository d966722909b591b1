"""Operations written for one kind of hardware at a time, one folder each. Usable without orca_jax."""
