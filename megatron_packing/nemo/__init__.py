"""For NeMo: pack indexes in Megatron-Bridge recipes, and its packed files in both directions."""
