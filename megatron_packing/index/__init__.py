"""From lengths to packs, and the packs on disk."""
