"""HatLLM (arXiv 2510.10955): one LLM over titles, masked by item in bands of layers."""
