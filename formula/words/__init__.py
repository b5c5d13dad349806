"""The words of the language: operators and stages, with their signatures."""
