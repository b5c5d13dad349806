"""The interfaces of other repositories, over formulas: their scripts run with the import changed.

Each module is named after what it replaces. It translates to a formula and models, and decodes
nothing itself. What has no formula is refused by name.
"""
