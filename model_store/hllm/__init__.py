"""HLLM (arXiv 2409.12740): Item LLM and User LLM."""
