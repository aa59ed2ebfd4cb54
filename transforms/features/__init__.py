"""Features: what is declared of them, and the engines that compute what was declared."""
