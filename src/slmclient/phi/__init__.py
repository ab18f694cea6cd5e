"""What is peculiar to the Phi family: prompt forms and reasoning. Pure."""
