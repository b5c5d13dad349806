"""Two runs beside each other: win rates by a reward, and by a model that judges."""
