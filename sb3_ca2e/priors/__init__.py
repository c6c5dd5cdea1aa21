"""Prior agents: agents trained earlier are found, read without executing anything, and retired when beaten."""
