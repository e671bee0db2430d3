"""From text to prompts, demonstrations and pairs."""
