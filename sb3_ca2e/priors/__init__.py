"""Prior agents: finding pretrained agents, reading them without executing code, and retiring them once beaten."""
