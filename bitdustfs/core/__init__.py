"""Pure rules: no clock, no dice, no disk, no network, no logging."""
