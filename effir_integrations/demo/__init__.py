"""What `effir demo` does."""
