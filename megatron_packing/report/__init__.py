"""What people read: tables, progress and packs in a terminal."""
