"""The contract both sides use; imports neither api nor worker, nor fastapi, vllm, torch."""
