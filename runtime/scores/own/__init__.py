"""Words of a user's own: functions, processors of transformers, and what they are tried on."""
