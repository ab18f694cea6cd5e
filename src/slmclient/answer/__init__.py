"""What takes several requests: asking again, running tools, prompts that do not fit."""
