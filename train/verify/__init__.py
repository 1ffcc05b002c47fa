"""Scripts that load an export in a process of their own, by stock libraries alone.

Each is run as a file, isolated (`python -I`), with the export and a result path as arguments. They
import nothing of Brewhouse, and say so if something else did.
"""
