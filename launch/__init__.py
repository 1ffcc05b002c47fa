"""What a person types: commands that start processes and print. Never trains by itself."""
