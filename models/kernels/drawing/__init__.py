"""The draw from a sum of terms, with stages that keep the best tokens: in few launches."""
