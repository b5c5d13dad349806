"""What a cache keeps of each layer: keys and values by position, or states of whole texts."""
