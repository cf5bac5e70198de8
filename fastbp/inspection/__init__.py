"""A step and a network told: numbers, formulas, plans and costs. Handed what it tells, it changes nothing."""
