"""Where figures go: the terminal, files, servers."""
